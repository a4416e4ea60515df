"""A learned gate that starts closed."""

import torch
from torch import Tensor, nn


class TanhGate(nn.Module):
    """Multiplies by ``tanh(scale)``; ``scale`` starts at 0, so a new branch at first adds nothing.

    Flamingo, section 2.2: https://arxiv.org/abs/2204.14198
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Gated x, of the same shape."""
        return x * self.scale.tanh()
