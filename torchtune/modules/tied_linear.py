"""An output projection that shares its weight with another module."""

import torch.nn.functional as F
from torch import Tensor, nn


class TiedLinear:
    """Projects with another module's weight, [B, S, D] -> [B, S, V].

    Not an ``nn.Module``, so it owns no parameter and the shared weight keeps its one name.

    Args:
        tied_module: owner of the weight [V, D], usually the token embedding.

    Raises:
        AttributeError: ``tied_module`` has no ``weight``.
    """

    def __init__(self, tied_module: nn.Module) -> None:
        if not hasattr(tied_module, "weight"):
            raise AttributeError(
                f"TiedLinear needs a module with a weight to share; {type(tied_module).__name__} has none"
            )
        self.tied_module = tied_module

    @property
    def weight(self) -> Tensor:
        """The shared weight [V, D]; read through the module on each use, since sharding replaces parameters."""
        return self.tied_module.weight

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)
