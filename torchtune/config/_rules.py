"""Rules for several keys at once: what they are, and those that all recipes share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Values = Mapping[str, Any]
"""Every key of a recipe, defaults included."""

Rule = Callable[[Values], tuple[str, str] | None]
"""Gives (key, message) for settings that cannot work together, or None."""

CUDA_LIKE = ("cuda", "xpu", "npu", "hpu")


def broken(rules: Sequence[Rule], v: Values) -> Iterator[tuple[str, str]]:
    """What the rules that do not hold have to say."""
    return (found for rule in rules if (found := rule(v)) is not None)


def device_name(v: Values) -> tuple[str, str] | None:
    kinds = ("cpu", "mps", *CUDA_LIKE)
    if v["device"] is not None and v["device"].partition(":")[0] not in kinds:
        return "device", f"device {v['device']!r} is not one of {', '.join(kinds)} (or one with a number, as cuda:1)"
    return None
