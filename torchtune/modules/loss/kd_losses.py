"""Distillation losses: how far a student's next-token distribution is from a teacher's, over the labelled tokens."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


def _forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the student under the teacher, [T, V] -> [T].

    It exceeds KL(teacher || student) by the teacher's entropy, which does not depend on the student: the gradients are
    those of the divergence (https://arxiv.org/abs/1503.02531). Words that either side rules out count nothing.
    """
    terms = teacher.float().softmax(-1) * student.float().log_softmax(-1).masked_fill(_ruled_out(student, teacher), 0)
    return -terms.sum(-1)


def _reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student || teacher), [T, V] -> [T] (https://arxiv.org/abs/2306.08543); ruled-out words as above."""
    log_student, log_teacher = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
    ratio = (log_student - log_teacher).masked_fill(_ruled_out(student, teacher), 0)
    return (log_student.exp() * ratio).sum(-1)


def _ruled_out(student: Tensor, teacher: Tensor) -> Tensor:
    return student.isinf() | teacher.isinf()


class _TokenLoss(nn.Module, ABC):
    """Mean over the labelled tokens of what ``_per_token`` gives."""

    ignore_index: int

    @abstractmethod
    def _per_token(self, student: Tensor, teacher: Tensor) -> Tensor:
        """[T, V] logits of both -> [T] losses."""

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, normalize: bool = True) -> Tensor:
        """The loss, a float32 scalar; 0 when no token is labelled.

        Args:
            student_logits: [B, S, V], as are ``teacher_logits``.
            labels: [B, S]; only where they differ from ``ignore_index`` do tokens count.
            normalize: divide by the number of labelled tokens; else the sum is returned.
        """
        counts = labels != self.ignore_index
        total = self._per_token(student_logits[counts], teacher_logits[counts]).sum()
        return total / counts.sum().clamp(min=1) if normalize else total


class ForwardKLLoss(_TokenLoss):
    """Makes the student cover all that the teacher finds likely.

    Its value is the student's cross-entropy under the teacher: KL(teacher || student) plus the teacher's entropy.
    """

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def _per_token(self, student: Tensor, teacher: Tensor) -> Tensor:
        return _forward_kl(student, teacher)


class ReverseKLLoss(_TokenLoss):
    """Makes the student avoid what the teacher finds unlikely: KL(student || teacher)."""

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def _per_token(self, student: Tensor, teacher: Tensor) -> Tensor:
        return _reverse_kl(student, teacher)


class SymmetricKLLoss(_TokenLoss):
    """``sym_kd_ratio`` of the forward loss and the rest of the reverse one.

    Raises:
        ValueError: the ratio lies outside [0, 1].
    """

    def __init__(self, sym_kd_ratio: float = 0.5, ignore_index: int = -100) -> None:
        super().__init__()
        if not 0 <= sym_kd_ratio <= 1:
            raise ValueError(f"sym_kd_ratio must be from 0 to 1, not {sym_kd_ratio}")
        self.sym_kd_ratio, self.ignore_index = sym_kd_ratio, ignore_index

    def _per_token(self, student: Tensor, teacher: Tensor) -> Tensor:
        ratio = self.sym_kd_ratio
        return ratio * _forward_kl(student, teacher) + (1 - ratio) * _reverse_kl(student, teacher)


class _ChunkedLoss(nn.Module):
    """The same loss over logits in pieces along the sequence, so that only one piece at a time is in float32."""

    num_output_chunks: int
    ignore_index: int
    token_loss: _TokenLoss

    def apply_compile_strategy(self, *args: Any, **kwargs: Any) -> "_ChunkedLoss":
        """Compile the loss of one piece, with torch.compile's arguments, and return self."""
        self.token_loss.compile(*args, **kwargs)
        return self

    def forward(self, student_logits: list[Tensor], teacher_logits: list[Tensor], labels: Tensor) -> Tensor:
        """The loss, a float32 scalar; 0 when no token is labelled.

        Args:
            student_logits: pieces [B, s, V] whose lengths add up to S, as do those of ``teacher_logits``.
            labels: [B, S]; only where they differ from ``ignore_index`` do tokens count.

        Raises:
            ValueError: pieces and labels do not fit each other.
        """
        lengths = [piece.shape[1] for piece in student_logits]
        if lengths != [piece.shape[1] for piece in teacher_logits] or sum(lengths) != labels.shape[1]:
            raise ValueError(
                f"the student's pieces have {lengths} tokens, the teacher's {[p.shape[1] for p in teacher_logits]}, "
                f"and there are {labels.shape[1]} labels; cut all three alike"
            )
        pieces = zip(student_logits, teacher_logits, labels.split(lengths, dim=1), strict=True)
        total = torch.stack([self.token_loss(*piece, normalize=False) for piece in pieces]).sum()
        return total / (labels != self.ignore_index).sum().clamp(min=1)


class ForwardKLWithChunkedOutputLoss(_ChunkedLoss):
    """:class:`ForwardKLLoss` over logits in pieces.

    Args:
        num_output_chunks: into how many pieces the models are asked to cut their logits.
    """

    def __init__(self, num_output_chunks: int = 8, ignore_index: int = -100) -> None:
        super().__init__()
        self.num_output_chunks, self.ignore_index = num_output_chunks, ignore_index
        self.token_loss = ForwardKLLoss(ignore_index)


class ReverseKLWithChunkedOutputLoss(_ChunkedLoss):
    """:class:`ReverseKLLoss` over logits in pieces.

    Args:
        num_output_chunks: into how many pieces the models are asked to cut their logits.
    """

    def __init__(self, num_output_chunks: int = 8, ignore_index: int = -100) -> None:
        super().__init__()
        self.num_output_chunks, self.ignore_index = num_output_chunks, ignore_index
        self.token_loss = ReverseKLLoss(ignore_index)


class SymmetricKLWithChunkedOutputLoss(_ChunkedLoss):
    """:class:`SymmetricKLLoss` over logits in pieces.

    Args:
        num_output_chunks: into how many pieces the models are asked to cut their logits.
    """

    def __init__(self, num_output_chunks: int = 8, sym_kd_ratio: float = 0.5, ignore_index: int = -100) -> None:
        super().__init__()
        self.num_output_chunks, self.sym_kd_ratio, self.ignore_index = num_output_chunks, sym_kd_ratio, ignore_index
        self.token_loss = SymmetricKLLoss(sym_kd_ratio, ignore_index)
