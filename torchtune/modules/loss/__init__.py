"""Losses."""

from torchtune.modules.loss.cross_entropy_loss import (
    CEWithChunkedOutputLoss,
    LinearCrossEntropyLoss,
    linear_cross_entropy,
)
from torchtune.modules.loss.kd_losses import (
    ForwardKLLoss,
    ForwardKLWithChunkedOutputLoss,
    ReverseKLLoss,
    ReverseKLWithChunkedOutputLoss,
    SymmetricKLLoss,
    SymmetricKLWithChunkedOutputLoss,
)
from torchtune.modules.loss.loss_types import RLLoss, SFTLoss

__all__ = [
    "CEWithChunkedOutputLoss", "ForwardKLLoss", "ForwardKLWithChunkedOutputLoss", "LinearCrossEntropyLoss",
    "RLLoss", "ReverseKLLoss", "ReverseKLWithChunkedOutputLoss", "SFTLoss", "SymmetricKLLoss",
    "SymmetricKLWithChunkedOutputLoss", "linear_cross_entropy",
]  # fmt: skip
