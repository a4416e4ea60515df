"""Adapters folded into the weights that they are for."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.modules.moe import LoRAGroupedExperts
from torchtune.modules.peft.dora import row_lengths
from torchtune.modules.peft.lora import LoRALinear


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, scaling: float, magnitude: Tensor | None = None) -> Tensor:
    """The weight [out, in] of a plain layer that computes what the adapted one does; the arithmetic is in float32.

    Args:
        weight: or a stack of experts', [E, in, out], with a [E, in, rank] and b [E, rank, out].
        magnitude: DoRA's row lengths [out]; None for LoRA.
    """
    if weight.dim() == 3:
        each = zip(weight, b, a, strict=True)  # one at a time, since a whole stack in float32 takes much memory
        return torch.stack([merged_weight(*parts, scaling) for parts in each])
    whole = torch.addmm(weight.float(), b.float(), a.float(), alpha=scaling)
    if magnitude is not None:
        whole *= (magnitude.float() / row_lengths(whole)).unsqueeze(1)
    return whole.to(weight.dtype)


def get_merged_lora_ckpt(
    state_dict: dict[str, Any], rank: int, alpha: float, use_distributed_barriers: bool = False
) -> dict[str, Any]:
    """Fold all adapters of a state dict into their weights, in place; gives the state dict, now a plain model's.

    Layers with ranks or scalings of their own are merged one by one with :func:`merged_weight`.

    Args:
        rank: of every adapter; the product is multiplied with ``alpha / rank``.
        use_distributed_barriers: kept for old recipes; pieces of split tensors need no common pace.

    Raises:
        CheckpointError: an adapter has another rank, is incomplete, or has no weight to be folded into.
    """
    for layer, adapted in _adapted_weights(state_dict):
        needed = [f"{layer}.{leaf}" for leaf in adapted]
        if missing := [n for n in needed if n not in state_dict]:
            raise CheckpointError(f"{layer} cannot be merged: the state dict has {needed[1]} but no {missing[0]}")
        weight, a, b = (state_dict[n] for n in needed)
        if (found := rank_of(a.shape)) != rank:
            raise CheckpointError(f"{needed[1]} has rank {found}, but rank={rank} is to be merged; pass its own rank")
        magnitude = state_dict.pop(f"{layer}.magnitude", None)
        state_dict[needed[0]] = merged_weight(weight, a, b, alpha / rank, magnitude)
        del state_dict[needed[1]], state_dict[needed[2]]
    return state_dict


def rank_of(a: Sequence[int]) -> int:
    """The rank of an adapter whose A has this shape: [rank, in], or of experts [E, in, rank]."""
    return a[0] if len(a) == 2 else a[2]


def _adapted_weights(names: Iterable[str]) -> list[tuple[str, tuple[str, str, str]]]:
    """Each layer that has an A, with the names below it of the weight, the A and the B."""
    kinds = [(weight, a, b) for weight, (a, b) in (LoRALinear.adapted | LoRAGroupedExperts.adapted).items()]
    ends = {kind: f".{kind[1]}" for kind in kinds}
    return [(name.removesuffix(end), kind) for name in names for kind, end in ends.items() if name.endswith(end)]
