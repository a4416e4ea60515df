"""Cutting token lists to length."""

from torchtune.modules.transforms.tokenizers._utils import truncate

__all__ = ["truncate"]
