"""Left-padded batches: where the tokens are, which position each has, and what each may look at."""

from collections.abc import Sequence

import torch
from torch import Tensor


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts that all end at the last column, and where they are tokens and not padding; both [B, S]."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    starts = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
    return tokens, torch.arange(width, device=device) >= starts[:, None]


def get_causal_mask_from_padding_mask(padding_mask: Tensor, target_seq_len: int | None = None) -> Tensor:
    """Which tokens each token may look at: itself, and those before it that are no padding; bool [B, S, T].

    Padding looks at itself: a softmax over nothing is NaN, which would spread through the values of the next layer.

    Args:
        padding_mask: [B, S], True for tokens, False for padding.
        target_seq_len: T, positions of the key-value cache, of which those from S on are not looked at; None means S.

    Raises:
        ValueError: ``target_seq_len`` is less than S.
    """
    S = padding_mask.shape[1]
    if target_seq_len is not None and target_seq_len < S:
        raise ValueError(f"target_seq_len is {target_seq_len}, but the padding mask already has {S} positions")
    causal = torch.ones(S, S, dtype=torch.bool, device=padding_mask.device).tril()
    itself = torch.eye(S, dtype=torch.bool, device=padding_mask.device)
    mask = causal & padding_mask[:, None, :] | itself
    return torch.nn.functional.pad(mask, (0, (target_seq_len or S) - S))


def get_position_ids_from_padding_mask(padding_mask: Tensor) -> Tensor:
    """Each token's position [B, S], counted from 0 at the first that is no padding; padding has 0.

    Args:
        padding_mask: [B, S], True for tokens, False for padding.
    """
    return (padding_mask.cumsum(-1) - 1).clamp(min=0)
