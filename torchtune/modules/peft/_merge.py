"""Adapters folded into the weights that they are for."""

from typing import Any

import torch
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.modules.peft.dora import row_lengths


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, scaling: float, magnitude: Tensor | None = None) -> Tensor:
    """The weight [out, in] of a plain layer that computes what the adapted one does; the arithmetic is in float32.

    Args:
        magnitude: DoRA's row lengths [out]; None for LoRA.
    """
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
    for name in [name for name in state_dict if name.endswith(".lora_a.weight")]:
        layer = name.removesuffix(".lora_a.weight")
        needed = [f"{layer}.weight", name, f"{layer}.lora_b.weight"]
        if missing := [n for n in needed if n not in state_dict]:
            raise CheckpointError(f"{layer} cannot be merged: the state dict has {name} but no {missing[0]}")
        weight, a, b = (state_dict[n] for n in needed)
        if a.shape[0] != rank:
            raise CheckpointError(f"{name} has rank {a.shape[0]}, but rank={rank} is to be merged; pass its own rank")
        magnitude = state_dict.pop(f"{layer}.magnitude", None)
        state_dict[needed[0]] = merged_weight(weight, a, b, alpha / rank, magnitude)
        del state_dict[name], state_dict[needed[2]]
    return state_dict
