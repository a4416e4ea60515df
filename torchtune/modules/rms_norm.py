"""Root-mean-square normalisation (https://arxiv.org/abs/1910.07467)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """``x`` divided by its root mean square over the last dim, computed in float32 and returned in x's dtype."""
    return F.rms_norm(x, x.shape[-1:], eps=eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale, [..., dim] -> [..., dim]; torch computes it in float32.

    Args:
        dim: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.normalized_shape, self.eps = (dim,), eps
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.scale.to(x.dtype), self.eps)
