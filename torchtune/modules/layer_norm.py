"""Layer normalisation that computes in float32."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Fp32LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` (https://arxiv.org/abs/1607.06450) in float32, whatever the dtype of input and weights.

    Half-precision sums over a wide layer lose digits; only the result is rounded to the input's dtype.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised x, of the same shape and dtype."""
        weight, bias = (None if p is None else p.float() for p in (self.weight, self.bias))
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).type_as(x)
