"""The product of a frozen weight and its low-rank adapter, as one differentiable operation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchtune.modules.low_precision.nf4 import NF4, Sizes, Stored, float_of, parts_of


def adapted_linear(
    x: Tensor, base: Stored, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float, dropout: float = 0.0
) -> Tensor:
    """``x W^T + bias + scaling * drop(x) A^T B^T``; x [..., in] -> [..., out].

    For backward it keeps x, which other projections of the same input keep too, the ``rank`` channels in the middle,
    and with dropout one byte an element. A quantised weight is computed again, and a frozen one has no gradient.

    Args:
        a: [rank, in]; ``b``: [out, rank].
        dropout: share of x's elements that the adapter does not see; 0 outside training.
    """
    if torch.is_autocast_enabled(x.device.type):  # operations in place, as used below, are not cast on their own
        dtype = torch.get_autocast_dtype(x.device.type)
        base = base if isinstance(base, NF4) else base.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        x, a, b = x.to(dtype), a.to(dtype), b.to(dtype)
    keep = None
    if dropout > 0:
        keep = _mask(x, dropout)
        scaling /= 1 - dropout
    parts, sizes = parts_of(base)
    return _AdaptedLinear.apply(x, keep, a, b, bias, scaling, sizes, *parts)


def _mask(x: Tensor, dropout: float) -> Tensor:
    """1 for the elements of x that stay, else 0; bytes, since a CPU multiplies with them faster than with booleans."""
    if x.device.type != "cpu":
        return (torch.rand(x.shape, device=x.device) >= dropout).view(torch.uint8)
    # Random numbers are dear on a CPU, so four elements share one of 64 bits.
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    quarters = numbers.view(torch.int16)[: x.numel()].view(x.shape)
    return (quarters >= round(dropout * (1 << 16)) - (1 << 15)).view(torch.uint8)


def _kept(x: Tensor, keep: Tensor | None) -> Tensor:
    return x if keep is None else x * keep.view(x.shape)


class _AdaptedLinear(torch.autograd.Function):
    """With h = keep(x) A^T and the gradient g of the result: d/dB = s g^T h, d/dA = s (g B)^T keep(x),
    d/dx = g W + keep(s g B A). What dropout divides by is part of s.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        keep: Tensor | None,
        a: Tensor,
        b: Tensor,
        bias: Tensor | None,
        scaling: float,
        sizes: Sizes,
        *parts: Tensor,
    ) -> Tensor:
        y = F.linear(x, float_of(parts, sizes, x.dtype), bias)
        h = F.linear(_kept(x, keep), a)
        y.view(-1, y.shape[-1]).addmm_(h.view(-1, h.shape[-1]), b.t(), alpha=scaling)
        ctx.save_for_backward(x, keep, a, b, h, *parts)
        ctx.scaling, ctx.sizes = scaling, sizes
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, a, b, h, *parts = ctx.saved_tensors
        needs = ctx.needs_input_grad
        g, flat = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        gh = (g @ b).mul_(ctx.scaling)
        grads: list[Tensor | None] = [None] * len(needs)
        if needs[0]:
            gx = g @ float_of(parts, ctx.sizes, g.dtype)
            gx = gx.addmm_(gh, a) if keep is None else gx.add_(_kept(gh @ a, keep))
            grads[0] = gx.view(x.shape)
        if needs[2]:
            grads[2] = gh.t() @ _kept(flat, keep)
        if needs[3]:
            grads[3] = (g.t() @ h.view(-1, h.shape[-1])).mul_(ctx.scaling)
        if needs[4]:
            grads[4] = g.sum(0)
        if needs[7]:  # only where someone has unfrozen the base
            grads[7] = g.t() @ flat
        return tuple(grads)
