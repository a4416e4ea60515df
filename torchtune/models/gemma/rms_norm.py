"""Gemma's norm."""

import torch.nn.functional as F
from torch import Tensor

from torchtune.modules import RMSNorm


class GemmaRMSNorm(RMSNorm):
    """Root-mean-square norm whose parameter ``scale`` is one less than the scale it applies, [..., dim] -> [..., dim].

    Args:
        dim: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__(dim, eps)
        self.scale.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        # In float32 throughout, as Gemma is defined: in bf16, 1 + scale would lose the last bits of the scale.
        return F.rms_norm(x.float(), self.normalized_shape, 1 + self.scale.float(), self.eps).type_as(x)
