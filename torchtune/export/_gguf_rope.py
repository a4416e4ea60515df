"""Rotary positions as a GGUF file tells them, by keys and by tensors, and as transformers is told of them."""

from collections.abc import Mapping
from math import isclose, log
from typing import Any

import torch
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.export._gguf_architectures import Architecture, Number
from torchtune.models._decoder import Arch
from torchtune.models._rope import Rope
from torchtune.modules import RotaryPositionalEmbeddings

FACTORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
_TYPE, _FACTOR = "rope.scaling.type", "rope.scaling.factor"
_ORIGINAL, _MAGNITUDE = "rope.scaling.original_context_length", "rope.scaling.attn_factor"
_IN_KEYS = ("linear", "yarn")


def main_rope(row: Architecture, a: Arch) -> Rope:
    """The positions that the file's keys tell: those of layers without a window where windowed ones have others."""
    return a.ropes[(row.period - 1) % len(a.ropes)] if row.period else next(filter(None, a.ropes))


def rope_numbers(row: Architecture, a: Arch) -> dict[str, Number]:
    """The keys.

    Raises:
        CheckpointError: the file cannot tell these positions.
    """
    rope = main_rope(row, a)
    scaling, kind = rope.scaling or {}, _kind_in(row, rope)
    numbers = {"rope.dimension_count": int(a.channels * rope.fraction), "rope.freq_base": float(rope.base)}
    if kind in _IN_KEYS:
        numbers |= {_TYPE: kind, _FACTOR: float(scaling["factor"])}
    if kind in ("yarn", "longrope"):
        numbers[_ORIGINAL] = scaling["original_max_position_embeddings"]
    if kind == "longrope":
        numbers[_MAGNITUDE] = float(rope.module(a.channels, max_seq_len=1).magnitude)
    if kind == "yarn":
        _check_yarn(rope, a)
    return numbers


def rope_tensors(row: Architecture, a: Arch) -> dict[str, Tensor]:
    """What llama.cpp divides the frequencies of RoPE's pairs by, each [turning channels / 2]."""
    rope = main_rope(row, a)
    kind = _kind_in(row, rope)
    if kind == "llama3":
        module = rope.module(a.channels, max_seq_len=1)
        return {FACTORS: RotaryPositionalEmbeddings.frequencies(module) / module.frequencies()}
    if kind == "longrope":
        return {LONG: torch.tensor(rope.scaling["long_factor"]), SHORT: torch.tensor(rope.scaling["short_factor"])}
    return {}


def _kind_in(row: Architecture, rope: Rope) -> str:
    kind = rope.scaling["rope_type"] if rope.scaling else "default"
    known = ("default", *_IN_KEYS, *row.rope_tensors)
    if kind not in known:
        raise CheckpointError(
            f"RoPE of the type {kind!r} cannot be written to a GGUF file of the architecture {row.name} here; known "
            f"types are {', '.join(known)}"
        )
    return kind


def _check_yarn(rope: Rope, a: Arch) -> None:
    """llama.cpp takes the paper's values of all that a file does not tell."""
    module = rope.module(a.channels, max_seq_len=1)
    usual = 1 + 0.1 * log(module.factor) if module.factor > 1 else 1
    found = (module.beta_fast, module.beta_slow, module.truncate)
    if found != (32, 1, True) or not isclose(module.magnitude, usual, rel_tol=1e-6):
        raise CheckpointError(
            "YaRN can be written to a GGUF file with the usual beta_fast (32), beta_slow (1), truncate (True) and "
            f"attention_factor ({usual:.6g} here) only; found are {found} and {module.magnitude:.6g}"
        )


def rope_parameters(numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The file's positions in transformers' words, but for ``FACTORS``, for which it has none."""
    found = {
        "rope_type": "longrope" if LONG in tensors else numbers.get(_TYPE, "default"),
        "rope_theta": numbers["rope.freq_base"],
        "partial_rotary_factor": numbers["rope.dimension_count"] / numbers["attention.key_length"],
        "factor": numbers.get(_FACTOR),
        "original_max_position_embeddings": numbers.get(_ORIGINAL),
        "attention_factor": numbers.get(_MAGNITUDE),
        "long_factor": tensors[LONG].tolist() if LONG in tensors else None,
        "short_factor": tensors[SHORT].tolist() if LONG in tensors else None,
    }
    return {name: value for name, value in found.items() if value is not None}
