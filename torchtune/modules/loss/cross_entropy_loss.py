"""Cross-entropy over a large vocabulary without the [tokens, vocabulary] float32 matrix.

The projection to the vocabulary is part of the loss: only hidden states whose label counts are projected, a block of
the vocabulary at a time, in the model's dtype and in place. Sums run in float32. The label's own term is computed in
float32 from the hidden state, so that the gradient of a confident token, ``p - 1``, is not lost in rounding.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchtune.modules.loss.loss_types import SFTLoss
from torchtune.modules.soft_cap import SoftCap
from torchtune.modules.tied_linear import TiedLinear

# One block of exponentials should stay in the cores' caches; a GPU wants fewer, larger kernels.
_BLOCK_BYTES_PER_THREAD, _BLOCK_BYTES_OF_GPU = 4 << 20, 1 << 29
# On the CPU a micro-batch whose exponentials take no more than this keeps them for backward, which is up to a third
# faster than to project twice (benchmarks/finetune_cpu.py) and little beside the optimizer's state.
_KEPT_BYTES_ON_CPU, _BLOCK_BYTES_WHEN_KEPT = 256 << 20, 16 << 20
# A piece of float32 logits; larger than a block, since a projection with an adapter has a fixed cost per piece.
_PIECE_BYTES_ON_CPU = 128 << 20
_SUM_SEGMENTS = 32  # bf16 sums are rounded per segment, then added in float32


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int = -100, cap: SoftCap | None = None
) -> Tensor:
    """Cross-entropy of ``hidden @ weight.T`` against ``targets``, summed over targets that count; a float32 scalar.

    Args:
        hidden: [..., D].
        weight: [V, D], the output projection.
        targets: [...], ids below V, or ``ignore_index``.
        cap: applied to the logits.
    """
    hidden, targets = _counted(hidden, targets, ignore_index)
    if hidden.dtype == torch.float16:  # exponentials overflow float16 at 11
        hidden, weight = hidden.float(), weight.float()
    if not weight.requires_grad:
        return _FrozenLinearCrossEntropy.apply(hidden, weight, targets, cap)
    keep = cap is None and _keeps(hidden, weight)  # what a cap's gradient needs besides would be as much again
    return _LinearCrossEntropy.apply(hidden, weight, targets, cap, keep)


def _counted(hidden: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The positions that count: [..., D] and [...] -> [n, D] and [n]."""
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    counted = (targets != ignore_index).nonzero().squeeze(1)
    return hidden.index_select(0, counted), targets.index_select(0, counted)


def _projected_cross_entropy(
    hidden: Tensor, project: Callable[[Tensor], Tensor], vocab_size: int, targets: Tensor, ignore_index: int
) -> Tensor:
    """The same for a projection that is more than its weight, as one with an adapter.

    A piece of the positions at a time is projected, in forward and once more in backward.
    """
    hidden, targets = _counted(hidden, targets, ignore_index)
    piece_bytes = _PIECE_BYTES_ON_CPU if hidden.device.type == "cpu" else _BLOCK_BYTES_OF_GPU
    rows = max(piece_bytes // (4 * vocab_size), 1)
    pieces = zip(hidden.split(rows), targets.split(rows))
    return sum(checkpoint(_sum_of_losses, project, *piece, use_reentrant=False) for piece in pieces)


def _sum_of_losses(project: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(project(hidden).float(), targets, reduction="sum")


class _LinearCrossEntropy(torch.autograd.Function):
    """With logits x, label logit t and z = sum(exp(x)): loss = log(z) - t and d loss / d x = exp(x) / z - [label].

    Forward keeps z, and the exponentials only where they are few; else backward computes them again. Below a soft cap,
    d loss / d x is multiplied by the cap's slope.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, cap: SoftCap | None, keep: bool) -> Tensor:
        label_logits = _label_logits(hidden, weight.index_select(0, targets).float(), cap)
        shift = None
        z, blocks = _normaliser(hidden, weight, targets, label_logits, shift, cap, keep)
        if not _in_range(z):
            shift = _largest_logit(hidden, weight, cap)
            z, blocks = _normaliser(hidden, weight, targets, label_logits, shift, cap, keep)
        losses = z.log() - _shifted(label_logits, shift)
        label_terms = z * _label_slopes(losses, label_logits, cap)
        ctx.save_for_backward(hidden, weight, targets, z, shift, label_terms)
        ctx.cap, ctx.keep, ctx.blocks = cap, keep, blocks
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, z, shift, label_terms = ctx.saved_tensors
        blocks, ctx.blocks = ctx.blocks, []  # free them now; a second backward computes them again
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        # Rows are scaled by grad / z on the small side of each product, never on the exponentials.
        scale = (grad / z)[:, None]
        label_terms = label_terms.to(hidden.dtype)
        scaled_hidden = (hidden.float() * scale).to(hidden.dtype)
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if needs_hidden else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        for i, (start, end) in enumerate(_block_bounds(hidden, weight, ctx.keep)):
            block, slope = (blocks[i], None) if blocks else _exponentials(hidden, weight[start:end], shift, ctx.cap)
            block = block if slope is None else block * slope
            _set_label_terms(block, targets - start, label_terms)
            if grad_hidden is not None:
                grad_hidden += block @ weight[start:end]
            if grad_weight is not None:
                torch.mm(block.t(), scaled_hidden, out=grad_weight[start:end])
        if grad_hidden is not None:
            grad_hidden = (grad_hidden * scale).to(hidden.dtype)
        return grad_hidden, grad_weight, None, None, None


class _FrozenLinearCrossEntropy(torch.autograd.Function):
    """The same below a weight that takes no gradient: then the only one, that of ``hidden``, is ready with the loss.

    Before the division by z it is a sum over blocks, so no exponential waits for backward or is computed twice.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, cap: SoftCap | None) -> Tensor:
        label_rows = weight.index_select(0, targets).float()
        label_logits, shift = _label_logits(hidden, label_rows, cap), None
        grad = torch.empty_like(hidden, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        z = _normaliser_and_gradient(hidden, weight, targets, label_logits, shift, cap, grad)
        if not _in_range(z):
            shift = _largest_logit(hidden, weight, cap)
            z = _normaliser_and_gradient(hidden, weight, targets, label_logits, shift, cap, grad)
        losses = z.log() - _shifted(label_logits, shift)
        if grad is not None:
            grad = grad.div_(z[:, None]).addcmul_(_label_slopes(losses, label_logits, cap)[:, None], label_rows)
            ctx.save_for_backward(grad.to(hidden.dtype))
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return (ctx.saved_tensors[0] * grad).to(ctx.saved_tensors[0].dtype), None, None, None


def _in_range(z: Tensor) -> bool:
    """False beyond exp's range, where logits must be measured from the largest one instead."""
    return bool(((z > 1e-30) & (z < 1e30)).all())


def _label_logits(hidden: Tensor, label_rows: Tensor, cap: SoftCap | None) -> Tensor:
    logits = (hidden.float() * label_rows).sum(-1)
    return logits if cap is None else cap(logits)


def _label_slopes(losses: Tensor, label_logits: Tensor, cap: SoftCap | None) -> Tensor:
    """The losses' derivatives by their label's logit, that before the cap."""
    slopes = torch.expm1(-losses)
    return slopes if cap is None else slopes * cap.slope(label_logits)


def _normaliser_and_gradient(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    label_logits: Tensor,
    shift: Tensor | None,
    cap: SoftCap | None,
    grad: Tensor | None,
) -> Tensor:
    """As :func:`_normaliser`; ``grad`` becomes the other words' exponentials times their rows of ``weight``."""
    z = _shifted(label_logits, shift).exp()
    nothing = hidden.new_zeros(hidden.shape[0])
    if grad is not None:
        grad.zero_()
    for start, end in _block_bounds(hidden, weight):
        block, slope = _exponentials(hidden, weight[start:end], shift, cap)
        _set_label_terms(block, targets - start, nothing)
        z += _row_sums(block)
        if grad is not None:
            grad += (block if slope is None else block * slope) @ weight[start:end]
    return z


def _block_bounds(hidden: Tensor, weight: Tensor, keep: bool = False) -> Iterator[tuple[int, int]]:
    """Ranges of the vocabulary, a multiple of the segments long but for the last."""
    rows, vocab = hidden.shape[0], weight.shape[0]
    width = max(_block_bytes(hidden, keep) // (max(rows, 1) * hidden.element_size()), 512)
    width = width // _SUM_SEGMENTS * _SUM_SEGMENTS
    return ((start, min(start + width, vocab)) for start in range(0, vocab, width))


def _block_bytes(hidden: Tensor, keep: bool) -> int:
    if hidden.device.type != "cpu":
        return _BLOCK_BYTES_OF_GPU
    return _BLOCK_BYTES_WHEN_KEPT if keep else _BLOCK_BYTES_PER_THREAD * torch.get_num_threads()


def _keeps(hidden: Tensor, weight: Tensor) -> bool:
    """Whether the exponentials wait for backward."""
    size = hidden.shape[0] * weight.shape[0] * hidden.element_size()
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return wanted and hidden.device.type == "cpu" and size <= _KEPT_BYTES_ON_CPU


def _exponentials(
    hidden: Tensor, weight: Tensor, shift: Tensor | None, cap: SoftCap | None
) -> tuple[Tensor, Tensor | None]:
    """Of a block of logits; and the cap's slope there, if there is one."""
    block, slope = hidden @ weight.t(), None
    if cap is not None:
        block = cap(block)
        slope = cap.slope(block)
    if shift is not None:
        block -= shift
    return block.exp_(), slope


def _shifted(label_logits: Tensor, shift: Tensor | None) -> Tensor:
    return label_logits if shift is None else label_logits - shift.squeeze(1).float()


def _normaliser(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    label_logits: Tensor,
    shift: Tensor | None,
    cap: SoftCap | None,
    keep: bool,
) -> tuple[Tensor, list[Tensor]]:
    """``sum(exp(x - shift))`` per row in float32, [n], and the blocks of exponentials that are kept.

    The label's own exponential enters in float32; its rounded one is taken out before the sum.
    """
    z = _shifted(label_logits, shift).exp()
    nothing, blocks = hidden.new_zeros(hidden.shape[0]), []
    for start, end in _block_bounds(hidden, weight, keep):
        block, _ = _exponentials(hidden, weight[start:end], shift, cap)
        _set_label_terms(block, targets - start, nothing)
        z += _row_sums(block)
        if keep:
            blocks.append(block)
    return z, blocks


def _set_label_terms(block: Tensor, column: Tensor, value: Tensor) -> None:
    """Put value [n] where a row's label lies in the block; without a host sync, so rows with none rewrite an entry."""
    inside = (column >= 0) & (column < block.shape[1])
    place = (torch.arange(block.shape[0], device=block.device), column.clamp(0, block.shape[1] - 1))
    block.index_put_(place, torch.where(inside, value, block[place]))  # scatter_ copies the block on the CPU


def _row_sums(block: Tensor) -> Tensor:
    rows, width = block.shape
    if width % _SUM_SEGMENTS:
        return block.sum(-1, dtype=torch.float32)
    return block.view(rows, _SUM_SEGMENTS, width // _SUM_SEGMENTS).sum(1).sum(-1, dtype=torch.float32)


def _largest_logit(hidden: Tensor, weight: Tensor, cap: SoftCap | None) -> Tensor:
    """[n, 1], in the dtype of ``hidden``."""
    largest = hidden.new_full((hidden.shape[0], 1), -math.inf)
    for start, end in _block_bounds(hidden, weight):
        largest = torch.maximum(largest, (hidden @ weight[start:end].t()).amax(-1, keepdim=True))
    return largest if cap is None else cap(largest)


class LinearCrossEntropyLoss(nn.Module, SFTLoss):
    """Mean cross-entropy of hidden states [B, S, D] against labels [B, S], the output projection included.

    Args:
        num_output_chunks: kept for old configs; the block size follows from the memory that a block should fill.
        ignore_index: label that does not count.
        tp_enabled: refused; tensor parallelism is not part of this loss yet.
        mask_ignored_tokens: kept for old configs; ignored positions are always left out before the projection.
    """

    def __init__(
        self,
        num_output_chunks: int = 8,
        ignore_index: int = -100,
        tp_enabled: bool = False,
        mask_ignored_tokens: bool = True,
    ) -> None:
        super().__init__()
        if tp_enabled:
            raise ValueError("LinearCrossEntropyLoss: tp_enabled is not available; leave it out")
        self.num_output_chunks, self.ignore_index = num_output_chunks, ignore_index
        self.linear_projection: Any = None
        self._finish_logits: Callable[[Tensor], Tensor] | None = None

    def set_model_output(self, model: nn.Module) -> None:
        """Take the model's output projection, and let the model return hidden states."""
        model.skip_output_layer = True
        self.linear_projection = model.output
        self._finish_logits = getattr(model, "finish_logits", None)

    def apply_compile_strategy(self, *args: Any, **kwargs: Any) -> "LinearCrossEntropyLoss":
        """Itself: nearly all of its time is in matrix products, which compiling does not change."""
        return self

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Summed, not averaged, over targets that count."""
        projection = self.linear_projection
        if _only_multiplies(projection) and isinstance(self._finish_logits, SoftCap | None):
            return linear_cross_entropy(
                outputs, projection.weight, targets, ignore_index=self.ignore_index, cap=self._finish_logits
            )
        return _projected_cross_entropy(outputs, self._logits, projection.weight.shape[0], targets, self.ignore_index)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self.linear_projection(hidden)
        return logits if self._finish_logits is None else self._finish_logits(logits)

    def compute_cross_entropy(self, hidden_chunk: Tensor, target_chunk: Tensor) -> Tensor:
        """Summed loss of some positions: hidden states [..., D] against labels [...]."""
        return self.total(hidden_chunk, target_chunk)

    def mask_inputs(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The positions that count: hidden states [..., D] and labels [...] -> [n, D] and [n]."""
        counted = target != self.ignore_index
        return hidden[counted], target[counted]

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.total(outputs, targets) / (targets != self.ignore_index).sum().clamp(min=1)


def _only_multiplies(projection: Any) -> bool:
    """Whether the projection's weight says all about it; subclasses may do more."""
    return isinstance(projection, TiedLinear) or (type(projection) is nn.Linear and projection.bias is None)


class CEWithChunkedOutputLoss(nn.Module):
    """Mean cross-entropy of logits that come as a list of pieces along the sequence; one piece is upcast at a time.

    Args:
        num_output_chunks: pieces the model is asked for, see ``TransformerDecoder.set_num_output_chunks``.
    """

    def __init__(self, num_output_chunks: int = 8, ignore_index: int = -100) -> None:
        super().__init__()
        self.num_output_chunks, self.ignore_index = num_output_chunks, ignore_index

    def forward(self, logits: list[Tensor], labels: Tensor) -> Tensor:
        """logits: pieces [B, S_i, V]; labels [B, S] -> scalar."""
        pieces = labels.split([piece.shape[1] for piece in logits], dim=1)
        total = sum(
            F.cross_entropy(x.flatten(0, 1).float(), y.flatten(), ignore_index=self.ignore_index, reduction="sum")
            for x, y in zip(logits, pieces, strict=True)
        )
        return total / (labels != self.ignore_index).sum().clamp(min=1)
