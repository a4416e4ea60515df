"""MXFP4: floats of 4 bits in blocks of 32 that share an exponent.

Format: https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf, 5.3.3 and 5.4.1.
"""

from functools import cache

import torch
from torch import Tensor

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_EXPONENT_OF_ONE = 127


@cache
def _tables() -> tuple[Tensor, Tensor]:
    """Of each byte: its two values, that of the lower bits first, as the 32 bits of a pair in bfloat16, [256]; and the
    factor that it is as an exponent, in bfloat16, [256].
    """
    values = torch.tensor([*_MAGNITUDES, *(-m for m in _MAGNITUDES)], dtype=torch.bfloat16)
    byte = torch.arange(256)
    pairs = torch.stack([values[byte % 16], values[byte // 16]], dim=-1).view(torch.int32).squeeze(-1)
    return pairs, torch.ldexp(torch.ones(256), byte - _EXPONENT_OF_ONE).bfloat16()


def dequantize_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """The values in bfloat16, which has them all exactly.

    Args:
        blocks: two values a byte, uint8 [..., G, 16].
        scales: the exponent of each block, plus 127, uint8 [..., G].

    Returns:
        [..., G * 32]
    """
    pairs, factors = (table.to(blocks.device) for table in _tables())
    values = pairs.index_select(0, blocks.flatten().int()).view(torch.bfloat16)  # faster than indexing with a tensor
    return values.view(*scales.shape, -1).mul_(factors[scales.int()].unsqueeze(-1)).flatten(-2)
