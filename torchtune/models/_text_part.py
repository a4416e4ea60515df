"""Checkpoints that read images too: what they say of the language model in them, which is a model of its own here."""

from collections.abc import Mapping
from typing import Any

from torchtune.models._weights import WeightMap

# How the names of its tensors begin in files, in those that keep transformers' own names too, and alone.
_BEGINNINGS = {"language_model.": "", "model.language_model.": "model.", "lm_head.": "lm_head."}
_INSIDE = {"model.": "model.language_model."}
# ``model_type`` -> transformers' class of the language model alone, and how those of its names that begin like these
# keys do so in transformers' whole model.
_WHOLE = {
    "gemma3": ("Gemma3ForCausalLM", _INSIDE),
    "llama4": ("Llama4ForCausalLM", {"model.": "language_model.model.", "lm_head": "language_model.lm_head"}),
    "mistral3": ("MistralForCausalLM", _INSIDE),
}
_SHARED = (
    "bos_token_id", "dtype", "eos_token_id", "pad_token_id", "quantization_config", "torch_dtype",
    "transformers_version",
)  # fmt: skip


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The ``config.json`` of the language model alone; the same object where there is nothing else."""
    if config.get("model_type") not in _WHOLE or "text_config" not in config:
        return config
    name, _ = _WHOLE[config["model_type"]]
    shared = {key: config[key] for key in _SHARED if config.get(key) is not None}
    own = {key: value for key, value in config["text_config"].items() if value is not None or key not in shared}
    return {"architectures": [name], **shared, **own}


def is_inside(name: str) -> bool:
    """Whether this is the name of a layer of a language model within a whole model."""
    return "language_model." in name


def name_alone(name: str) -> str | None:
    """The name that a tensor has where the language model is alone; None for a tensor of another part."""
    for beginning, alone in _BEGINNINGS.items():
        if name.startswith(beginning):
            return alone + name.removeprefix(beginning)
    return None


def names_inside(names: WeightMap, model_type: str) -> WeightMap:
    """The names inside of the whole model of that type; PEFT's are made of them, since it is the base there."""
    _, places = _WHOLE[model_type]

    def inside(name: str) -> str:
        found = (there + name.removeprefix(alone) for alone, there in places.items() if name.startswith(alone))
        return next(found, name)

    return WeightMap({inside(theirs): rule for theirs, rule in names.rules.items()}, tuple(map(inside, names.rotary)))
