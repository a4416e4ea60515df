"""The path at which torchtune 0.6.1 defines its loss over chunks of logits."""

from torchtune.modules.loss.cross_entropy_loss import CEWithChunkedOutputLoss

__all__ = ["CEWithChunkedOutputLoss"]
