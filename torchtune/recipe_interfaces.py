"""What a recipe offers to whoever runs it. Recipes may subclass these or just have the methods."""

from typing import Any, Protocol


class FTRecipeInterface(Protocol):
    """A recipe that trains a model. The order of calls is ``setup``, ``train``, ``cleanup``."""

    def load_checkpoint(self, **kwargs: Any) -> Any:
        """Read the weights, and when resuming the state of the run."""

    def setup(self, **kwargs: Any) -> None:
        """Build all that training needs, the model first."""

    def train(self, **kwargs: Any) -> None:
        """Run the training loop."""

    def save_checkpoint(self, **kwargs: Any) -> None:
        """Write the weights, and during training the state of the run."""

    def cleanup(self, **kwargs: Any) -> None:
        """Let go of what was opened: loggers, process groups."""


class EvalRecipeInterface(Protocol):
    """A recipe that measures a model. The order of calls is ``setup``, ``evaluate``, ``cleanup``."""

    def load_checkpoint(self, **kwargs: Any) -> Any:
        """Read the weights."""

    def setup(self, **kwargs: Any) -> None:
        """Build all that the measurement needs."""

    def evaluate(self, **kwargs: Any) -> None:
        """Run the measurement and report its results."""

    def cleanup(self, **kwargs: Any) -> None:
        """Let go of what was opened."""


class OrchestrationRecipeInterface(Protocol):
    """A recipe that starts others, as workers on several machines, and waits for them."""

    def setup(self, **kwargs: Any) -> None:
        """Start the workers."""

    def run(self, **kwargs: Any) -> None:
        """Give out the work until it is done."""

    def cleanup(self, **kwargs: Any) -> None:
        """Stop the workers."""
