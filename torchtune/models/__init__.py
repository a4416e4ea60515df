"""Model families, found by what a checkpoint says of itself."""

from collections.abc import Mapping
from typing import Any

from torchtune.errors import CheckpointError, ConfigError
from torchtune.models._family import Family
from torchtune.models._llama import LLAMA

_BY_HF_MODEL_TYPE = {"llama": LLAMA}  # ``model_type`` in a Hugging Face config.json
_BY_MODEL_TYPE = {"LLAMA2": LLAMA, "LLAMA3": LLAMA, "LLAMA3_2": LLAMA}  # ``model_type`` in a torchtune config


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint, by its ``config.json``.

    Raises:
        CheckpointError: the family is not known.
    """
    found = config.get("model_type")
    if found not in _BY_HF_MODEL_TYPE:
        raise CheckpointError(f"config.json says model_type {found!r}; known are {sorted(_BY_HF_MODEL_TYPE)}")
    return _BY_HF_MODEL_TYPE[found]


def family_for_model_type(model_type: str) -> Family:
    """The family that a config's ``model_type`` names, for example ``LLAMA3_2``; letter case does not matter.

    Raises:
        ConfigError: no such type.
    """
    if model_type.upper() not in _BY_MODEL_TYPE:
        raise ConfigError(f"model_type {model_type!r} is not known; known are {sorted(_BY_MODEL_TYPE)}")
    return _BY_MODEL_TYPE[model_type.upper()]
