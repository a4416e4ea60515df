"""Fine-tune language models with plain PyTorch. Sub-packages load when they are first used."""

from importlib import import_module
from types import ModuleType

__version__ = "1.0.0.dev0"
__all__ = ["datasets", "generation", "models", "modules", "utils"]

_PACKAGES = (*__all__, "config", "data", "rlhf", "training")


def __getattr__(name: str) -> ModuleType:
    if name in _PACKAGES:
        return import_module(f"torchtune.{name}")
    raise AttributeError(f"module 'torchtune' has no attribute {name!r}")
