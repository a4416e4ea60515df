"""Rotary positions as numbers: what a ``config.json`` says of them, and the module that they make."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchtune.errors import CheckpointError
from torchtune.modules.position_embeddings import Llama3ScaledRoPE, RotaryPositionalEmbeddings
from torchtune.modules.scaled_rope import DynamicScaledRoPE, LinearScaledRoPE, LongRoPE, YaRNScaledRoPE


@dataclass(frozen=True, kw_only=True)
class Rope:
    """How positions turn the channels of a head.

    Args:
        base: the slowest pair's wavelength is ``2 pi base`` tokens.
        fraction: share of a head's channels that turn; the others pass through.
        interleaved: channels are in Meta's order; otherwise in Hugging Face's.
        scaling: ``rope_type`` and its numbers, named as in transformers' ``rope_parameters``; None for none.
    """

    base: float = 10_000.0
    fraction: float = 1.0
    interleaved: bool = True
    scaling: Mapping[str, Any] | None = None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], layer_type: str | None = None, **overrides: Any) -> "Rope":
        """Read the spelling of transformers 5 (``rope_parameters``) or of earlier versions (``rope_scaling``).

        Args:
            layer_type: whose parameters to take where the config has some for each type of layer.

        Raises:
            CheckpointError: positions are scaled in a way that is not known here, or its numbers are incomplete.
        """
        found = config.get("rope_parameters") or config.get("rope_scaling") or {}
        found = found.get(layer_type) or found
        kind = found.get("rope_type", found.get("type", "default"))
        outside = {key: config.get(key) for key in ("partial_rotary_factor", "rope_theta")}  # read in any case
        fraction = found.get("partial_rotary_factor") or outside["partial_rotary_factor"] or 1.0
        base = found.get("rope_theta") or outside["rope_theta"] or 10_000.0
        scaling = None if kind == "default" else _scaling(kind, found, config)
        return cls(**{"base": base, "fraction": fraction, "scaling": scaling} | overrides)

    def module(self, head_dim: int, max_seq_len: int) -> RotaryPositionalEmbeddings:
        """The module for heads of ``head_dim`` channels in sequences of up to ``max_seq_len`` tokens."""
        build = RotaryPositionalEmbeddings if self.scaling is None else _SCALED[self.scaling["rope_type"]]
        numbers = {k: v for k, v in (self.scaling or {}).items() if k != "rope_type"}
        return build(int(head_dim * self.fraction), max_seq_len, self.base, interleaved=self.interleaved, **numbers)


def with_positions(num_layers: int, interval: int) -> list[bool]:
    """Whether each layer has positions where every ``interval``-th has none."""
    return [number % interval != 0 for number in range(1, num_layers + 1)]


def llama3_scaling(factor: float, original_max_position_embeddings: int = 8192) -> dict[str, Any]:
    """The scaling of Llama 3.1 and later."""
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1,
        "high_freq_factor": 4,
        "original_max_position_embeddings": original_max_position_embeddings,
    }


def _llama3(
    dim: int,
    max_seq_len: int,
    base: float,
    *,
    interleaved: bool,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Llama3ScaledRoPE:
    factors = (factor, low_freq_factor, high_freq_factor, original_max_position_embeddings)
    return Llama3ScaledRoPE(dim, max_seq_len, base, *factors, interleaved=interleaved)


# By ``rope_type``: what makes the module of the numbers, and those numbers: needed, and those that may be absent.
_SCALED: dict[str, Callable[..., RotaryPositionalEmbeddings]] = {
    "linear": LinearScaledRoPE,
    "dynamic": DynamicScaledRoPE,
    "yarn": YaRNScaledRoPE,
    "longrope": LongRoPE,
    "llama3": _llama3,
}
_ORIGINAL = "original_max_position_embeddings"
_NUMBERS = {
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "yarn": (
        ("factor", _ORIGINAL),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": (("short_factor", "long_factor", "factor", _ORIGINAL), ("attention_factor",)),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL), ()),
}
_ELSEWHERE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_OLD_NAMES = {"su": "longrope"}  # in the first files of Phi 3


def _scaling(kind: str, found: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    kind = _OLD_NAMES.get(kind, kind)
    if kind not in _SCALED:
        known = ", ".join(["default", *_SCALED])
        raise CheckpointError(f"config.json asks for the RoPE type {kind!r}; known are {known}")
    needed, optional = _NUMBERS[kind]
    places = _with_implied(kind, found, config)
    numbers = {name: places[name] for name in (*needed, *optional) if places.get(name) is not None}
    absent = [name for name in needed if name not in numbers]
    unknown = sorted(k for k, v in found.items() if v is not None and k not in {*needed, *optional, *_ELSEWHERE})
    if absent or unknown:
        raise CheckpointError(
            f"config.json's RoPE of type {kind!r} "
            + " and ".join(f"{what} {names}" for what, names in (("lacks", absent), ("has unknown", unknown)) if names)
        )
    if kind == "dynamic":
        numbers[_ORIGINAL] = config.get("max_position_embeddings")
    return {"rope_type": kind} | numbers


def _with_implied(kind: str, found: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that were found, with those that transformers takes from the rest of the config (as Phi 3 does)."""
    if _ORIGINAL not in _NUMBERS[kind][0]:
        return dict(found)
    longest = config.get("max_position_embeddings")
    original = config.get(_ORIGINAL) or found.get(_ORIGINAL) or longest
    implied = {"factor": longest / original} if longest and kind in ("yarn", "longrope") else {}
    return implied | {k: v for k, v in found.items() if v is not None} | {_ORIGINAL: original}
