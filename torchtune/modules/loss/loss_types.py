"""What a recipe asks of a loss."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class SFTLoss(ABC):
    """A loss for supervised fine-tuning. It gets the output projection, so that logits need not exist all at once."""

    @abstractmethod
    def apply_compile_strategy(self, *args: Any, **kwargs: Any) -> "SFTLoss":
        """Compile the part that gains by it, with torch.compile's arguments, and return the loss."""

    def set_model_output(self, model: nn.Module) -> None:  # noqa: B027 - not every loss needs it
        """Take what is needed of the model, as its output projection; by default nothing."""

    @abstractmethod
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar, of the model's ``outputs`` [B, S, D or V] against ``targets`` [B, S]."""

    @property
    def tp_requires_loss_parallel_ctx_manager(self) -> bool:
        """True when, under tensor parallelism, the step must run inside torch's ``loss_parallel``."""
        return False

    def patch_tp_plan(self, tp_plan: dict[str, Any]) -> dict[str, Any]:
        """The tensor-parallel plan that fits this loss; by default the one given."""
        return tp_plan


class RLLoss(ABC):
    """A loss for policy optimisation."""

    @abstractmethod
    def apply_compile_strategy(self, *args: Any, **kwargs: Any) -> "RLLoss":
        """Compile the part that gains by it, with torch.compile's arguments, and return the loss."""

    def set_model_output(self, model: nn.Module) -> None:  # noqa: B027 - not every loss needs it
        """Take what is needed of the model, as its output projection; by default nothing."""

    @abstractmethod
    def forward(
        self,
        pi_old_outputs: Tensor,
        pi_outputs: Tensor,
        ref_outputs: Tensor,
        advantages: Tensor,
        padding_masks: Tensor | None = None,
    ) -> Any:
        """The loss of the policy's outputs, given those of the policy that sampled and of the reference.

        Args:
            advantages: one per completion, [B].
            padding_masks: bool [B, S], True = counts; None means all.
        """
