"""Whole state dicts of Llama-shaped models from Hugging Face's and Meta's names to ours and back; adapters to PEFT."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.models._peft import peft_fields, peft_writes
from torchtune.models._weights import HF_DECODER, META_DECODER, WeightMap

__all__ = [
    "get_mapped_key",
    "hf_to_tune",
    "meta_to_tune",
    "tune_to_hf",
    "tune_to_meta",
    "tune_to_peft_adapter_config",
    "tune_to_peft_adapter_weights",
]

_HF, _META = WeightMap(HF_DECODER), WeightMap(META_DECODER)


def get_mapped_key(key: str, mapping_dict: Mapping[str, str]) -> str:
    """The name that a table with ``{}`` for the layer number gives for ``key``.

    Raises:
        CheckpointError: the table has no entry for it.
    """
    pattern = re.sub(r"(?<=\.)\d+(?=\.|$)", "{}", key, count=1)
    found = mapping_dict.get(key, mapping_dict.get(pattern))
    if found is None:
        raise CheckpointError(f"unexpected tensor {key!r}: the table of names has neither it nor {pattern!r}")
    return found.format(*re.findall(r"(?<=\.)\d+(?=\.|$)", key)[:1])


def hf_to_tune(
    state_dict: dict[str, Tensor],
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
) -> dict[str, Tensor]:
    """A state dict with our names, of one with Hugging Face's.

    Args:
        num_kv_heads: accepted for old callers; the tensors' own rows say it.
        head_dim: channels of one attention head; None: ``dim // num_heads``.

    Raises:
        CheckpointError: a tensor has no name here.
    """
    return _HF.to_native(state_dict, head_dim=head_dim or dim // num_heads)


def tune_to_hf(
    state_dict: dict[str, Tensor],
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
) -> dict[str, Tensor]:
    """The inverse of :func:`hf_to_tune`."""
    return _HF.to_foreign(state_dict, head_dim=head_dim or dim // num_heads)


def meta_to_tune(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with our names, of one with Meta's.

    Raises:
        CheckpointError: a tensor has no name here.
    """
    return _META.to_native(state_dict)


def tune_to_meta(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`meta_to_tune`."""
    return _META.to_foreign(state_dict)


def tune_to_peft_adapter_config(
    adapter_config: dict[str, Any], base_model_name_or_path: str | None = None
) -> dict[str, Any]:
    """An ``adapter_config.json`` for PEFT.

    Args:
        adapter_config: ``r``, ``lora_alpha`` and ``target_modules``, these by our last names such as ``output_proj``;
            other keys go along unchanged.
        base_model_name_or_path: what the base is loaded by: a name on the Hub, or a folder.

    Raises:
        CheckpointError: one of the three is missing, or a target has no name in Hugging Face's format.
    """
    if missing := {"r", "lora_alpha", "target_modules"} - adapter_config.keys():
        raise CheckpointError(f"the adapter's config has no {' and no '.join(sorted(missing))}")
    last_names = {ours.rpartition(".")[2]: theirs.rpartition(".")[2] for theirs, ours in HF_DECODER.items() if ours}
    if unknown := [name for name in adapter_config["target_modules"] if name not in last_names]:
        raise CheckpointError(f"{unknown[0]} has no name in Hugging Face's format; known are {sorted(last_names)}")
    targets = [last_names[name] for name in adapter_config["target_modules"]]
    fields = peft_fields(adapter_config["r"], adapter_config["lora_alpha"], targets, base_model_name_or_path)
    return fields | {key: value for key, value in adapter_config.items() if key != "target_modules"}


def tune_to_peft_adapter_weights(
    state_dict: dict[str, Tensor],
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
) -> dict[str, Tensor]:
    """Adapters with PEFT's names, of a state dict of them with ours; for the arguments see :func:`hf_to_tune`.

    Raises:
        CheckpointError: a tensor has no name there.
    """
    writes = peft_writes(_HF, state_dict, head_dim=head_dim or dim // num_heads)
    return {w.foreign: w.finish([state_dict[n] for n in w.natives]) for w in writes}
