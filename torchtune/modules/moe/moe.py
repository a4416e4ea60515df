"""Sparse mixtures of experts: which experts a token goes to, and what becomes of their answers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Choice = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Of the experts' logits [T, E] and k: scores [T, k] in float32, and the k experts that each token goes to, [T, k]."""


def softmax_over_all(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest experts, with their shares of the softmax over all; these need not sum to 1. A :data:`Choice`."""
    return logits.float().softmax(-1).topk(k)


def softmax_over_chosen(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest experts, with the softmax over their logits alone; a :data:`Choice`.

    The same as shares of the softmax over all experts, divided by their sum.
    """
    chosen, experts = logits.float().topk(k)
    return chosen.softmax(-1), experts


def sigmoid_of_chosen(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest experts, with the sigmoid of their logits; a :data:`Choice`."""
    chosen, experts = logits.float().topk(k)
    return chosen.sigmoid(), experts


class RouterGate(nn.Module):
    """A logit for each expert, [T, dim] -> [T, num_experts].

    Computes what ``nn.Linear`` does, and is none, since it is small and sensitive: what quantises linear layers, or
    gives them adapters, passes it by.
    """

    def __init__(self, dim: int, num_experts: int, bias: bool = False) -> None:
        super().__init__()
        drawn = nn.Linear(dim, num_experts, bias=bias)
        self.weight, self.bias = drawn.weight, drawn.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class TokenChoiceTopKRouter(nn.Module):
    """Sends each token to the ``experts_per_token`` experts that it likes best (https://arxiv.org/abs/1701.06538).

    Args:
        gate: gives the logits, [T, dim] -> [T, num_experts].
        choose: makes scores of them, and picks the experts.
    """

    def __init__(
        self,
        *,
        gate: nn.Module,
        dim: int,
        num_experts: int,
        experts_per_token: int,
        choose: Choice = sigmoid_of_chosen,
    ) -> None:
        super().__init__()
        self.gate, self.dim, self.num_experts, self.experts_per_token = gate, dim, num_experts, experts_per_token
        self.choose = choose

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of tokens [T, dim], with R = T * experts_per_token rows that lie in the order of the experts:

        scores [R] in x's dtype, the number of each row's token [R], and how many rows each expert gets [num_experts].
        """
        scores, experts = self.choose(self.gate(x), self.experts_per_token)
        experts = experts.flatten()
        order = experts.argsort(stable=True)
        counts = experts.new_zeros(self.num_experts).scatter_add(0, experts, torch.ones_like(experts))
        return scores.flatten().index_select(0, order).to(x.dtype), order // self.experts_per_token, counts


class MoE(nn.Module):
    """A feed-forward made of experts, of which each token sees a few, [B, S, D] -> [B, S, D].

    Here a score multiplies what its expert gets, as in Llama 4; in :class:`WeightedSumMoE` what the expert gives.

    Args:
        experts: ``(rows [R, D], number of rows of each expert [E]) -> [R, D]``; see :class:`GroupedExperts`.
        router: ``tokens [T, D] -> (scores [R], token of each row [R], number of rows of each expert [E])``, with
            equally many rows for each token; see :class:`TokenChoiceTopKRouter`.
        shared_expert: sees every token, and its answer is added.
    """

    def __init__(self, *, experts: nn.Module, router: nn.Module, shared_expert: nn.Module | None = None) -> None:
        super().__init__()
        self.experts, self.router, self.shared_expert = experts, router, shared_expert

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        scores, tokens, counts = self.router(flat)
        places = tokens.argsort(stable=True)
        out = self.routed(_Spread.apply(flat, tokens, places), scores.unsqueeze(-1), counts)
        out = _Collect.apply(out, tokens, places, len(flat))
        if self.shared_expert is not None:
            out = out + self.shared_expert(flat)
        return out.view_as(x)

    def routed(self, x: Tensor, scores: Tensor, counts: Tensor) -> Tensor:
        """The experts' answers to rows x [R, D] with scores [R, 1]."""
        return self.experts(x * scores, counts)


class WeightedSumMoE(MoE):
    """The sum of the experts' answers, each multiplied with its score, as in Mixtral and most families since
    (https://arxiv.org/abs/2401.04088, section 2.1); for the arguments see :class:`MoE`.
    """

    def routed(self, x: Tensor, scores: Tensor, counts: Tensor) -> Tensor:
        return self.experts(x, counts) * scores


def _sum_of_token(rows: Tensor, places: Tensor, num_tokens: int) -> Tensor:
    return rows.index_select(0, places).view(num_tokens, -1, rows.shape[-1]).sum(1)


# Adding rows to those of their tokens one by one would round after each in bf16, and on a GPU in an order that changes
# from run to run. Therefore both operations know where each token's rows are.
class _Spread(torch.autograd.Function):
    """Tokens [T, D] as rows [R, D] in the order of the experts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.num_tokens = len(x)
        return x.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _sum_of_token(grad, *ctx.saved_tensors, ctx.num_tokens), None, None


class _Collect(torch.autograd.Function):
    """Rows [R, D] summed for each token, [T, D]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, tokens: Tensor, places: Tensor, num_tokens: int) -> Tensor:
        ctx.save_for_backward(tokens)
        return _sum_of_token(rows, places, num_tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None, None
