"""Transforms of samples; the tokenizers are in ``torchtune.modules.transforms.tokenizers``."""

from torchtune.modules.transforms._transforms import Transform

__all__ = ["Transform"]
