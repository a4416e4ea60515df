"""Model families, found by what a checkpoint or a config says of itself."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torchtune.errors import CheckpointError, ConfigError
from torchtune.models._family import Family

# Where each family lies below this package; a family is imported when it is asked for.
_BY_HF_MODEL_TYPE = {  # ``model_type`` in a Hugging Face config.json
    "llama": "_llama.LLAMA",
    "mistral": "mistral.MISTRAL",
}
_BY_MODEL_TYPE = {  # ``model_type`` in a torchtune config
    "LLAMA2": "_llama.LLAMA",
    "LLAMA3": "_llama.LLAMA",
    "LLAMA3_2": "_llama.LLAMA",
    "MISTRAL": "mistral.MISTRAL",
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
    return getattr(import_module(f"{__name__}.{module}"), name)
