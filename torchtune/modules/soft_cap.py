"""A bound that numbers approach and never pass."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SoftCap:
    """``cap * tanh(x / cap)``, of any shape: near x where x is small, and never beyond the cap."""

    cap: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.cap * torch.tanh(x / self.cap)

    def slope(self, capped: Tensor) -> Tensor:
        """The derivative, where the result is ``capped``."""
        return 1 - (capped / self.cap).square()
