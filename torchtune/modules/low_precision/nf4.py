"""4-bit NormalFloat with double quantisation: the arithmetic, and how a module holds a weight in it.

QLoRA, section 3: https://arxiv.org/abs/2305.14314. A row is cut into blocks of 64 values; a value is kept as the number
(0 to 15) of the level next to it after division by its block's largest magnitude; these magnitudes are quantised in
turn, to 8 bits. A value takes 4.13 bits. Every number equals what torchao's ``to_nf4`` gives, bit for bit.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.errors import CheckpointError

if TYPE_CHECKING:  # it takes a second to import, and only split weights need it
    from torch.distributed.tensor import DTensor

# QLoRA, appendix E, rounded to four digits as in torchao.
LEVELS = (
    -1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0,
    0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0,
)  # fmt: skip
_INNER = ("_scale", "_scale_factor", "_scale_mean")  # ends of names that are never in a state dict
_TWO_AS_ONE = {2: torch.int32, 4: torch.int64, 8: torch.complex128}  # as wide as two values of so many bytes


@dataclass(frozen=True)
class NF4:
    """A weight [out, in], or some of its rows, or a stack of such, in 4 bits a value.

    Args:
        codes: uint8 [out, in / 2], numbers of two levels a byte, the first in the upper four bits.
        scale: int8 [out, in / block_size], the blocks' largest magnitudes, quantised.
        scale_factor: [ceil(blocks / scaler_block_size)] of the whole weight, in its dtype.
        scale_mean: scalar in the weight's dtype, mean of the whole weight's block magnitudes.
    """

    codes: Tensor
    scale: Tensor
    scale_factor: Tensor
    scale_mean: Tensor
    block_size: int = 64
    scaler_block_size: int = 256


Stored = Tensor | NF4
"""A weight as its module holds it."""

Sizes = tuple[int, int] | None
"""Block size and scaler block size of a weight in 4 bits; None for a plain one."""


def parts_of(weight: Stored) -> tuple[tuple[Tensor, ...], Sizes]:
    """The tensors of a weight, for differentiable operations, which take no other objects."""
    if isinstance(weight, NF4):
        parts = (weight.codes, weight.scale, weight.scale_factor, weight.scale_mean)
        return parts, (weight.block_size, weight.scaler_block_size)
    return (weight,), None


def float_of(parts: Sequence[Tensor], sizes: Sizes, dtype: torch.dtype) -> Tensor:
    """The float weight of what :func:`parts_of` gave; a quantised one is computed anew in ``dtype``."""
    return parts[0] if sizes is None else dequantize_nf4(NF4(*parts, *sizes), dtype)


@torch.no_grad()
def quantize_nf4(weight: Tensor, block_size: int = 64, scaler_block_size: int = 256) -> NF4:
    """A float weight [..., in] in 4 bits a value.

    The number of blocks need not be a multiple of ``scaler_block_size``; the last group of magnitudes is then shorter.
    A block of zeros gets the lowest level, as in torchao, and so comes back as minus its restored magnitude: 0 where
    all blocks are zeros, else at most half a step of the quantised magnitudes.

    Raises:
        ValueError: a row is not a whole number of blocks.
    """
    *rows, in_dim = weight.shape
    _check_blocks(in_dim, block_size)
    blocks = weight.detach().contiguous().view(-1, block_size)
    codes = torch.empty(len(blocks), block_size // 2, dtype=torch.uint8, device=weight.device)
    magnitudes = torch.empty(len(blocks), dtype=weight.dtype, device=weight.device)
    for part in _parts(blocks):
        torch.amax(blocks[part].abs(), dim=1, out=magnitudes[part])
        codes[part] = _nearest(blocks[part] / magnitudes[part].unsqueeze(1))
    scale, factor, mean = _quantize_magnitudes(magnitudes, scaler_block_size)
    codes, scale = codes.view(*rows, in_dim // 2), scale.view(*rows, in_dim // block_size)
    return NF4(codes, scale, factor, mean, block_size, scaler_block_size)


def dequantize_nf4(nf4: NF4, dtype: torch.dtype | None = None, first_block: int = 0) -> Tensor:
    """The float weight [..., in] that the codes stand for, computed in the dtype of ``scale_mean``.

    Args:
        dtype: of the result; None means that of ``scale_mean``.
        first_block: number of these rows' first block in the whole weight, where they are not its first rows.
    """
    dtype = dtype or nf4.scale_mean.dtype
    if nf4.codes.is_meta:
        return torch.empty(_float_shape(nf4.codes), dtype=dtype, device="meta")
    codes, scale = nf4.codes.reshape(-1, nf4.block_size // 2), nf4.scale.reshape(-1)
    weight = _restore(codes, scale, nf4.scale_factor, nf4.scale_mean, nf4.scaler_block_size, first_block, dtype)
    return weight.view(_float_shape(nf4.codes))


def _float_shape(codes: Tensor) -> tuple[int, ...]:
    return *codes.shape[:-1], 2 * codes.shape[-1]


def hold_nf4(
    module: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype | None = None,
    block_size: int = 64,
    scaler_block_size: int = 256,
    device: torch.device | str | None = None,
    *,
    leaf: str = "weight",
) -> None:
    """Make ``module`` hold a weight of this shape, [..., in], in 4 bits; its content is yet to be filled in.

    It gets the parameters ``weight`` and ``weight_scale``, which take no gradient and can be split by rows, and the
    buffers ``weight_scale_factor`` and ``weight_scale_mean``, which stay whole. Its state dict shows the float weight
    alone, computed for it, and loading takes a float weight and quantises it.

    Args:
        dtype: of the float weight; None means torch's default. It follows ``module.to(dtype)``.
        leaf: name of the weight, and beginning of the other names.

    Raises:
        ValueError: a row is not a whole number of blocks.
    """
    *rows, in_dim = shape
    _check_blocks(in_dim, block_size)
    empty = functools.partial(torch.empty, device=device)
    scale = empty(*rows, in_dim // block_size, dtype=torch.int8)
    codes = empty(*rows, in_dim // 2, dtype=torch.uint8)
    module.register_parameter(leaf, nn.Parameter(codes, requires_grad=False))
    module.register_parameter(f"{leaf}_scale", nn.Parameter(scale, requires_grad=False))
    module.register_buffer(f"{leaf}_scale_factor", empty(-(-scale.numel() // scaler_block_size), dtype=dtype))
    module.register_buffer(f"{leaf}_scale_mean", empty((), dtype=dtype))
    module.scaler_block_size = scaler_block_size
    module.register_state_dict_post_hook(functools.partial(_show_float, leaf=leaf))
    module.register_load_state_dict_pre_hook(functools.partial(_take_float, leaf=leaf))


def is_quantised(module: nn.Module, leaf: str = "weight") -> bool:
    """True for a module that :func:`hold_nf4` made hold this weight in 4 bits."""
    return isinstance(getattr(module, f"{leaf}_scale", None), nn.Parameter)


def nf4_of(module: nn.Module, leaf: str = "weight") -> NF4:
    """What a quantised module holds; its codes and scale are split where the module's parameters are."""
    codes, scale, *others = (getattr(module, leaf + end) for end in ("", *_INNER))
    return NF4(codes, scale, *others, 2 * codes.shape[-1] // scale.shape[-1], module.scaler_block_size)


def stored(module: nn.Module, leaf: str, full: Tensor) -> dict[str, Tensor]:
    """The tensors by name that ``module`` keeps for its whole float tensor ``leaf``: four for a quantised weight."""
    if not is_quantised(module, leaf):
        return {leaf: full}
    held = nf4_of(module, leaf)
    new = quantize_nf4(full.to(held.scale_mean.dtype), held.block_size, held.scaler_block_size)
    parts = (new.codes, new.scale, new.scale_factor, new.scale_mean)
    return {leaf + end: part for end, part in zip(("", *_INNER), parts)}


def _check_blocks(in_dim: int, block_size: int) -> None:
    if in_dim % block_size or block_size % 2:
        raise ValueError(
            f"rows of {in_dim} values cannot be cut into blocks of {block_size}: the width of a weight in NF4 must be "
            "a multiple of the block size, and that of 2; leave this weight unquantised or pass another block_size"
        )


def _parts(blocks: Tensor) -> Iterator[slice]:
    """Runs of blocks to be worked on together: on a CPU as many as stay in its cores' caches; none without storage."""
    values = torch.get_num_threads() << 18 if blocks.device.type == "cpu" else 1 << 24
    step = max(1, values // blocks.shape[1])
    count = 0 if blocks.is_meta else len(blocks)
    return (slice(start, start + step) for start in range(0, count, step))


def _nearest(x: Tensor) -> Tensor:
    """Codes of x in -1 .. 1, [blocks, block_size] -> [blocks, block_size / 2]; NaN, of a block of zeros, gets 0."""
    if x.element_size() == 2:
        bits = x.view(torch.uint16).view(-1).int()
        numbers = _levels_of_all(x.dtype, x.device).index_select(0, bits).view(x.shape)
    else:
        numbers = _count_passed(x)
    return numbers[:, ::2] << 4 | numbers[:, 1::2]


def _count_passed(x: Tensor) -> Tensor:
    """Numbers of the levels next to x: how many midpoints of neighbouring levels are below it."""
    levels = torch.tensor(LEVELS, dtype=x.dtype, device="cpu").double()
    exact = (levels[1:] + levels[:-1]) / 2
    midpoints = exact.to(x.dtype)
    # Rounded up, a midpoint would draw a value that lies just above it to the lower level.
    midpoints = torch.where(midpoints > exact, midpoints.nextafter(-torch.ones_like(midpoints)), midpoints)
    numbers = torch.zeros_like(x, dtype=torch.uint8)
    for midpoint in midpoints.tolist():
        numbers += x > midpoint
    return numbers


@functools.cache
def _levels_of_all(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The number of the level next to each value of a 16-bit dtype, in the order of its bits."""
    bits = torch.arange(1 << 16, dtype=torch.int32, device=device).to(torch.uint16)
    return _count_passed(bits.view(dtype))


def _quantize_magnitudes(magnitudes: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations from the mean as int8, what each group's were multiplied by, and the mean."""
    mean = magnitudes.mean()
    deviation = F.pad(magnitudes - mean, (0, -len(magnitudes) % group)).view(-1, group)
    factor = 256 / (2 * deviation.abs().amax(dim=1))  # 128 / x would round differently where x is large in float16
    numbers = (deviation * factor.unsqueeze(1)).round().clamp(-128, 127)
    numbers = numbers.nan_to_num(0)  # where no magnitude deviates the factor is infinite
    return numbers.view(-1)[: len(magnitudes)].to(torch.int8), factor, mean


# An operation of its own, because a compiled layer would trace through the parts and round elsewhere.
@torch.library.custom_op("torchtune::restore_nf4", mutates_args=())
def _restore(
    codes: Tensor, scale: Tensor, factor: Tensor, mean: Tensor, group: int, first_block: int, dtype: torch.dtype
) -> Tensor:
    """[blocks, block_size / 2] -> [blocks, block_size]"""
    factors = factor.unsqueeze(1).expand(-1, group).flatten()[first_block : first_block + len(scale)]
    magnitudes = (scale / factors + mean).unsqueeze(1)
    if codes.is_cuda:
        return _compiled()(codes, _levels(mean.dtype, codes.device), magnitudes).to(dtype)
    pairs, weight = _pairs(mean.dtype, codes.device), codes.new_empty(len(codes), 2 * codes.shape[1], dtype=dtype)
    for part in _parts(weight):
        levels = pairs.index_select(0, codes[part].reshape(-1).int()).view(mean.dtype).view(-1, weight.shape[1])
        torch.mul(levels, magnitudes[part], out=weight[part])
    return weight


@_restore.register_fake
def _(codes: Tensor, *others: Any) -> Tensor:
    return codes.new_empty(codes.shape[0], 2 * codes.shape[1], dtype=others[-1])


def _restore_each(codes: Tensor, levels: Tensor, magnitudes: Tensor) -> Tensor:
    """The loop in :func:`_restore` value by value, which a compiler makes one kernel of; it rounds once, as that."""
    shifts = 4 - 4 * torch.arange(2, dtype=torch.uint8, device=codes.device)
    numbers = (codes.unsqueeze(-1) >> shifts & 15).view(len(codes), -1)
    return levels[numbers.int()] * magnitudes


@functools.cache
def _compiled() -> Any:
    return torch.compile(_restore_each, dynamic=True)


@functools.cache
def _levels(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(LEVELS, dtype=dtype, device=device)


@functools.cache
def _pairs(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The two levels that each byte stands for, seen as one number of twice the width."""
    levels = _levels(dtype, device)
    return torch.cartesian_prod(levels, levels).view(_TWO_AS_ONE[dtype.itemsize]).view(-1)


def _show_float(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], leaf: str
) -> None:
    held = nf4_of(module, leaf)
    state_dict[prefix + leaf] = _restore_split(held) if _is_split(held.codes) else dequantize_nf4(held)
    for end in _INNER:
        del state_dict[prefix + leaf + end]


def _is_split(x: Tensor) -> bool:
    return hasattr(x, "placements")


def _restore_split(held: NF4) -> "DTensor":
    """The float weight, split as its codes are."""
    from torch.distributed.tensor import DTensor

    codes, scale = held.codes.to_local(), held.scale.to_local()
    local = replace(held, codes=codes, scale=scale)
    rows = _split_like(torch.arange(len(held.codes), device=codes.device), held.codes).to_local()
    first_row = int(rows[0]) if len(rows) and not codes.is_meta else 0
    weight = dequantize_nf4(local, first_block=first_row * prod(scale.shape[1:]))
    whole = torch.empty(_float_shape(held.codes), device="meta")
    return DTensor.from_local(
        weight,
        held.codes.device_mesh,
        held.codes.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


def _split_like(whole: Tensor, like: Tensor) -> Tensor:
    """``whole``, of which every process has the same, split by rows as ``like`` is."""
    if not _is_split(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _take_float(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *others: Any, leaf: str
) -> None:
    """Quantise the float weight in ``state_dict``; where there is none, only ``leaf`` shall be missed."""
    name, held = prefix + leaf, nf4_of(module, leaf)
    if name not in state_dict:
        state_dict.update({name + end: getattr(module, leaf + end) for end in _INNER})
        return
    weight, shape = state_dict[name], _float_shape(held.codes)
    if not weight.is_floating_point() or weight.shape != shape:
        raise CheckpointError(
            f"{name} is {weight.dtype} {list(weight.shape)}; a weight to be quantised must be a float {list(shape)}, "
            "whole or split as the module's parameters are: pass what the module's state_dict() gives"
        )
    whole = weight.full_tensor() if _is_split(weight) else weight
    if not held.codes.is_meta:
        whole = whole.to(held.codes.device)
    new = stored(module, leaf, whole)
    state_dict.update({prefix + part: _split_like(t, getattr(module, part)) for part, t in new.items()})
