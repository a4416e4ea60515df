"""A linear layer whose frozen weight is kept in 4 bits."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules.low_precision.nf4 import Sizes, float_of, hold_nf4, nf4_of, parts_of


class FrozenNF4Linear(nn.Linear):
    """Linear layer [..., in_dim] -> [..., out_dim] that does not learn and keeps its weight in 4-bit NormalFloat.

    The float weight exists only while it is multiplied with, in forward and once more in backward. A state dict shows
    it as ``weight`` [out_dim, in_dim], and loading one quantises it. A new layer draws it as ``nn.Linear`` does.

    QLoRA, section 3: https://arxiv.org/abs/2305.14314

    Args:
        bias: add a bias, which does not learn either and is kept in ``dtype``.
        dtype: of the float weight; None means torch's default.
        quantization_kwargs: ``block_size``, how many values share a magnitude (64), and ``scaler_block_size``, how many
            magnitudes share a factor (256).

    Raises:
        ValueError: ``in_dim`` is not a multiple of ``block_size``.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        bias: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **quantization_kwargs: Any,
    ) -> None:
        super().__init__(in_dim, out_dim, bias=bias, device=device, dtype=dtype)
        drawn = self.requires_grad_(False).weight
        hold_nf4(self, (out_dim, in_dim), drawn.dtype, device=drawn.device, **quantization_kwargs)
        self.load_state_dict({"weight": drawn}, strict=False)

    @classmethod
    def from_linear(cls, linear: nn.Linear, **quantization_kwargs: Any) -> Self:
        """The quantised twin of ``linear``; on the meta device it has shapes only."""
        twin = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            torch.device("meta"),
            linear.weight.dtype,
            **quantization_kwargs,
        )
        if not linear.weight.is_meta:  # there is nothing to quantise, and to try takes seconds for a large model
            twin.load_state_dict(linear.state_dict(), assign=True)
        return twin

    def forward(self, input: Tensor) -> Tensor:
        """Project ``input``, the only one to get a gradient."""
        parts, sizes = parts_of(nf4_of(self))
        return _FrozenProduct.apply(input, self.bias, sizes, *parts)


class _FrozenProduct(torch.autograd.Function):
    """``x W^T + bias`` that keeps neither x nor the float W for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, sizes: Sizes, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*parts)
        ctx.sizes = sizes
        return F.linear(x, float_of(parts, sizes, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad @ float_of(ctx.saved_tensors, ctx.sizes, grad.dtype), *[None] * 6
