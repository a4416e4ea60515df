"""Split expressions such as ``train[:95%]`` or ``train[:100]+test``: the meaning the `datasets` package gives them.

https://huggingface.co/docs/datasets/loading#slice-splits
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from torchtune.errors import DataError

_TERM = re.compile(
    r"(?P<name>\w+(\.\w+)*)"
    r"(?P<slice>\[((?P<start>-?[\d_]+)(?P<start_percent>%)?)?:((?P<stop>-?[\d_]+)(?P<stop_percent>%)?)?\])?"
    r"(\((?P<rounding>\w+)\))?"
)
_ROUNDINGS = ("closest", "pct1_dropremainder")


class SplitTerm(NamedTuple):
    """One part of a split expression; None for a bound means that end of the split."""

    name: str
    start: int | None
    stop: int | None
    percent: bool
    rounding: str

    def bounds(self, length: int) -> tuple[int, int]:
        """First row, and the one after the last, in a split of ``length`` rows."""
        start = 0 if self.start is None else self._row(self.start, length)
        return start, length if self.stop is None else self._row(self.stop, length)

    def _row(self, bound: int, length: int) -> int:
        if self.percent and self.rounding == "closest":
            bound = round(bound * length / 100)
        elif self.percent:
            bound = bound * math.trunc(length / 100)
        return min(max(bound + length if bound < 0 else bound, 0), length)


def parse_split(split: str) -> list[SplitTerm]:
    """The parts of a split expression, in order.

    Raises:
        DataError: the expression cannot be read
    """
    return [_parse_term(term, split) for term in re.split(r"\s*\+\s*", split)]


def select_rows(split: str, lengths: Mapping[str, int]) -> tuple[np.ndarray, list[str]]:
    """Row numbers that a split expression chooses, over its splits laid end to end, and the names of those in order.

    Args:
        lengths: rows of each split there is
    """
    terms = _all_or_parse(split, lengths)
    unknown = [term.name for term in terms if term.name not in lengths]
    if unknown:
        raise DataError(f"split {split!r}: there is no split {unknown[0]!r}; the splits are {', '.join(lengths)}")
    names = list(dict.fromkeys(term.name for term in terms))
    offsets = dict(zip(names, np.cumsum([0] + [lengths[name] for name in names])))
    chosen = [np.arange(*term.bounds(lengths[term.name])) + offsets[term.name] for term in terms]
    rows = np.concatenate(chosen)
    if not len(rows):
        raise DataError(f"split {split!r} chooses no row; " + ", ".join(f"{n} has {lengths[n]} rows" for n in names))
    return rows, names


def _all_or_parse(split: str, lengths: Mapping[str, int]) -> list[SplitTerm]:
    if split == "all":
        return [SplitTerm(name, None, None, False, "closest") for name in lengths]
    return parse_split(split)


def _parse_term(term: str, split: str) -> SplitTerm:
    match = _TERM.fullmatch(term)
    if match is None:
        raise DataError(f"split {split!r} cannot be read; examples: train, train[:95%], train[95%:], train[10:20]")
    start, stop = (int(match[key]) if match[key] else None for key in ("start", "stop"))
    units = {bool(match[f"{key}_percent"]) for key in ("start", "stop") if match[key]}
    if len(units) > 1:
        raise DataError(f"split {split!r}: one bound is a percentage and the other a row; use one unit for both")
    percent = units == {True}
    _check_rounding(split, match["rounding"], percent)
    if percent and any(bound is not None and abs(bound) > 100 for bound in (start, stop)):
        raise DataError(f"split {split!r}: a percentage must lie between -100 and 100")
    return SplitTerm(match["name"], start, stop, percent, match["rounding"] or "closest")


def _check_rounding(split: str, rounding: str | None, percent: bool) -> None:
    if rounding and not percent:
        raise DataError(f"split {split!r}: a rounding, ({rounding}), is for percentages only")
    if rounding and rounding not in _ROUNDINGS:
        raise DataError(f"split {split!r}: the rounding is one of {', '.join(_ROUNDINGS)}, not {rounding}")
