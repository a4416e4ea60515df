"""Products of groups of rows, each group with a matrix of its own."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchtune.modules.low_precision.nf4 import Sizes, Stored, float_of, parts_of

_DEVICES = ("cpu", "cuda", "xpu")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ALIGNMENT = 16  # bytes that the rows of every operand are a multiple of


def should_use_grouped_mm(device: torch.device | None = None) -> bool:
    """True where torch multiplies all groups in one operation.

    Args:
        device: None for this machine's accelerator, or its CPU.
    """
    device = device or torch.accelerator.current_accelerator() or torch.device("cpu")
    return device.type in _DEVICES


def grouped_product(x: Tensor, weight: Stored, num_rows: Tensor) -> Tensor:
    """Each group's rows times its matrix, [R, I] and [E, I, O] -> [R, O].

    The matrix of a group without rows gets a gradient of zero. Where the numbers of rows are on an accelerator, they
    stay there.

    Args:
        weight: a frozen one may be in 4 bits; it is restored for the product, and once more in backward.
        num_rows: how many of x's rows belong to each group, int [E]; they lie in the order of the groups.
    """
    parts, sizes = parts_of(weight)
    if torch.is_autocast_enabled(x.device.type):  # which does not know this operation
        x = x.to(torch.get_autocast_dtype(x.device.type))
        parts = parts if sizes else (weight.to(x.dtype),)
    if not should_use_grouped_mm(x.device) or x.dtype not in _DTYPES:
        matrices = float_of(parts, sizes, x.dtype)
        return torch.cat([rows @ matrix for rows, matrix in zip(x.split(num_rows.tolist()), matrices, strict=True)])
    more_out = 0
    if sizes is None:
        more_in, more_out = (-size % (_ALIGNMENT // x.element_size()) for size in parts[0].shape[1:])
        if more_in or more_out:  # no real model's matrices, but the low ranks of adapters
            x, parts = F.pad(x, (0, more_in)), (F.pad(parts[0], (0, more_out, 0, more_in)),)
    y = _GroupedProduct.apply(x, num_rows.cumsum(0, dtype=torch.int32), sizes, *parts)
    return y[:, : y.shape[1] - more_out]


# An operation of its own, because torch refuses to compile its own for other numbers than bf16, which it computes.
@torch.library.custom_op("torchtune::grouped_mm", mutates_args=())
def _multiply(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    """[R, I] and [E, I, O] -> [R, O], or [I, R] and [R, O] -> [E, I, O]; ``ends`` [E] are where the groups of R end."""
    return F.grouped_mm(a, b, offs=ends)


@_multiply.register_fake
def _(a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
    groups = () if b.dim() == 3 else ends.shape
    return a.new_empty(*groups, a.shape[0], b.shape[-1])


class _GroupedProduct(torch.autograd.Function):
    """Torch's own derivative refuses gradients that are expanded, and leaves those of empty groups unset on some GPUs
    (https://github.com/pytorch/pytorch/issues/172439).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: Tensor, sizes: Sizes, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(x, ends, *parts)
        ctx.sizes = sizes
        return _multiply(x.contiguous(), float_of(parts, sizes, x.dtype), ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, ends, *parts = ctx.saved_tensors
        grad = grad.contiguous()
        grads: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if ctx.needs_input_grad[0]:
            grads[0] = _multiply(grad, float_of(parts, ctx.sizes, grad.dtype).transpose(-2, -1), ends)
        if ctx.needs_input_grad[3]:
            grads[3] = _multiply(x.contiguous().t(), grad, ends)
            if grad.is_cuda:
                is_empty = ends.diff(prepend=ends.new_zeros(1)) == 0
                grads[3].masked_fill_(is_empty[:, None, None], 0)
        return tuple(grads)
