"""Model families, found by what a checkpoint or a config says of itself."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torchtune.errors import CheckpointError, ConfigError
from torchtune.models._family import Family

# Where each family lies below ``torchtune.models``; a family is imported when it is asked for.
_BY_HF_MODEL_TYPE = {  # ``model_type`` in a Hugging Face config.json
    "gemma": "gemma.GEMMA",
    "gemma2": "gemma2.GEMMA2",
    "gemma3_text": "gemma3.GEMMA3",
    "gpt_oss": "gpt_oss.GPT_OSS",
    "granite": "granite.GRANITE",
    "llama": "_llama.LLAMA",
    "llama4_text": "llama4.LLAMA4",
    "ministral": "mistral.MINISTRAL",
    "mistral": "mistral.MISTRAL",
    "mixtral": "mixtral.MIXTRAL",
    "olmo2": "olmo2.OLMO2",
    "olmo3": "olmo3.OLMO3",
    "phi3": "phi3.PHI3",
    "qwen2": "qwen2.QWEN2",
    "qwen3": "qwen3.QWEN3",
    "qwen3_moe": "qwen3_moe.QWEN3_MOE",
    "smollm3": "smollm3.SMOLLM3",
}
_BY_MODEL_TYPE = {  # ``model_type`` in a torchtune config
    "GEMMA": "gemma.GEMMA",
    "GEMMA2": "gemma2.GEMMA2",
    "GEMMA3": "gemma3.GEMMA3",
    "GPT_OSS": "gpt_oss.GPT_OSS",
    "GRANITE": "granite.GRANITE",
    "LLAMA2": "_llama.LLAMA",
    "LLAMA3": "_llama.LLAMA",
    "LLAMA3_2": "_llama.LLAMA",
    "LLAMA4": "llama4.LLAMA4",
    "MISTRAL": "mistral.MISTRAL",
    "MIXTRAL": "mixtral.MIXTRAL",
    "OLMO2": "olmo2.OLMO2",
    "OLMO3": "olmo3.OLMO3",
    "PHI3_MINI": "phi3.PHI3",
    "PHI4": "phi3.PHI3",
    "QWEN2": "qwen2.QWEN2",
    "QWEN3": "qwen3.QWEN3",
    "QWEN3_MOE": "qwen3_moe.QWEN3_MOE",
    "SMOLLM3": "smollm3.SMOLLM3",
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint, by its ``config.json``.

    Raises:
        CheckpointError: the family is not known.
    """
    found = config.get("model_type")
    if found not in _BY_HF_MODEL_TYPE:
        raise CheckpointError(f"config.json says model_type {found!r}; known are {sorted(_BY_HF_MODEL_TYPE)}")
    return _family(_BY_HF_MODEL_TYPE[found])


def family_for_model_type(model_type: str) -> Family:
    """The family that a config's ``model_type`` names, for example ``LLAMA3_2``; letter case does not matter.

    Raises:
        ConfigError: no such type.
    """
    if model_type.upper() not in _BY_MODEL_TYPE:
        raise ConfigError(f"model_type {model_type!r} is not known; known are {sorted(_BY_MODEL_TYPE)}")
    return _family(_BY_MODEL_TYPE[model_type.upper()])


def _family(place: str) -> Family:
    module, name = place.split(".")
    return getattr(import_module(f"torchtune.models.{module}"), name)
