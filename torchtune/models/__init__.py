"""Families of models, and the model and the tokenizer of any folder that one of them knows."""

from torchtune.models._auto import auto, auto_tokenizer, lora_auto, qlora_auto
from torchtune.models._families import family_for_model_type, family_of

__all__ = ["auto", "auto_tokenizer", "family_for_model_type", "family_of", "lora_auto", "qlora_auto"]
