"""Whole state dicts of Llama-shaped models from Hugging Face's and Meta's names to ours and back."""

import re
from collections.abc import Mapping

from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.models._weights import HF_DECODER, META_DECODER, WeightMap

__all__ = ["get_mapped_key", "hf_to_tune", "meta_to_tune", "tune_to_hf", "tune_to_meta"]

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
