"""Where each padded sequence ends."""

import torch
from torch import Tensor


def get_unmasked_sequence_lengths(mask: Tensor) -> Tensor:
    """Index of the last real token of each row, 0 for a row without any; bool [B, S], True = padding -> int64 [B]."""
    positions = torch.arange(mask.shape[-1], device=mask.device)
    return torch.where(mask, 0, positions).amax(dim=-1)
