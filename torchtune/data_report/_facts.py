"""What is counted of the samples that a part of the data becomes."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchtune.datasets import PackedDataset
from torchtune.datasets._faults import Look
from torchtune.datasets._packed import STRATEGIES
from torchtune.datasets._parts import Part
from torchtune.datasets._prepare import Preparation

_BARS = 12
_CAPACITY = 2_048  # of packs, where neither the config nor a sample says more


@dataclass(frozen=True)
class Lengths:
    """Tokens per sample: the ends, the middle, and how many samples lie in each of some stretches.

    Args:
        bars: (from, to or None for what is longer, samples).
    """

    least: int
    median: int
    percentile_95: int
    longest: int
    bars: list[tuple[int, int | None, int]]


@dataclass(frozen=True)
class Truncation:
    """What is cut off at ``limit`` tokens.

    Args:
        answers: samples that have lost all there was to learn.
        within: samples that have lost some of what there was to learn.
        bars: how long the rows are before they are cut, as in ``Lengths``; one of the bars ends at the limit.
    """

    limit: int
    samples: int
    tokens: int
    answers: int
    within: int
    bars: list[tuple[int, int | None, int]]


@dataclass(frozen=True)
class Fill:
    """How many packs a strategy makes, and which share of their room holds tokens."""

    packs: int
    share: float


@dataclass(frozen=True)
class Packing:
    """Packs of ``capacity`` tokens.

    Args:
        used: how the config packs: ``best_fit``, ``greedy``, ``split`` (texts are cut where a pack is full), or None.
        fills: by strategy.
        unpacked: the share of tokens among tokens and padding in batches without packing.
        limited_by: the key of the config that says how long a sequence may be; None where there is none.
        cut: rows that are longer than ``capacity`` and would have to be cut.
    """

    capacity: int
    used: str | None
    fills: dict[str, Fill]
    unpacked: float
    limited_by: str | None
    cut: int


@dataclass(frozen=True)
class Facts:
    """The counts of a part.

    Args:
        rows: in the data; None for a stream that goes on.
        looked_at: rows that all other counts are of.
        samples: what training draws from the rows that were looked at: as many samples, or packs.
    """

    rows: int | None
    looked_at: int
    samples: int
    tokens: int
    trained: int
    lengths: Lengths
    truncation: Truncation | None
    packing: Packing | None


def facts_of(part: Part, tokenizer: Any, batch_size: int, how: Preparation, model_limit: int | None = None) -> Facts:
    """Counts the tokens of a part.

    Args:
        model_limit: how long a sequence of the model may be, where the config says it.
    """
    look = Look(part, tokenizer)
    lengths = part.table.lengths
    packing = _packing(part, look, _capacity(part, tokenizer, model_limit), batch_size)
    packs = packing.fills.get(packing.used) if packing else None
    return Facts(
        rows=part.total,
        looked_at=len(lengths),
        samples=packs.packs if packs else len(lengths),
        tokens=int(lengths.sum()),
        trained=_trained_in_packs(part) if packing and packing.used == "split" else int(look.targets.sum()),
        lengths=_lengths(lengths),
        truncation=_truncation(part, look, how),
        packing=packing,
    )


def _lengths(lengths: np.ndarray) -> Lengths:
    middle, high = np.percentile(lengths, [50, 95], method="nearest").astype(int).tolist()
    return Lengths(int(lengths.min()), middle, high, int(lengths.max()), bars_of(lengths))


def bars_of(lengths: np.ndarray, limit: int | None = None) -> list[tuple[int, int | None, int]]:
    """A histogram with round edges; a few that are far longer than the rest share the last bar.

    Args:
        limit: one more edge is behind this length.
    """
    low, most, top = int(lengths.min()), int(np.percentile(lengths, 99)), int(lengths.max())
    width = _round_up((min(top, 2 * most) - low + 1) / (_BARS - 1))
    edges = list(range(low - low % width, min(top, 2 * most) + width, width))
    end = edges[-1] + width
    if limit is not None and edges[0] <= limit < top:
        edges = sorted({*edges, limit + 1})
    stops = [*edges[1:], max(end, edges[-1] + 1)]
    counts = np.histogram(lengths, [*edges, np.inf])[0].tolist()
    bars = [(edge, stop - 1, count) for edge, stop, count in zip(edges, stops, counts)]
    while bars and not bars[-1][2]:
        bars.pop()
    last = bars[-1]
    return [*bars[:-1], (last[0], last[1] if top <= last[1] else None, last[2])]


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    unit = 10 ** math.floor(math.log10(max(width, 1)))
    return next(step * unit for step in (1, 2, 5, 10) if step * unit >= width)


def _truncation(part: Part, look: Look, how: Preparation) -> Truncation | None:
    if part.cut_at is None:
        return None
    lengths, at_limit = part.table.lengths, np.flatnonzero(look.is_cut)
    if not len(at_limit):
        return Truncation(part.cut_at, 0, 0, 0, 0, bars_of(lengths))
    whole = part.uncut(at_limit, how)
    lengths[at_limit] = whole.lengths
    is_cut = whole.lengths > part.cut_at
    cut = at_limit[is_cut]
    return Truncation(
        limit=part.cut_at,
        samples=len(cut),
        tokens=int((whole.lengths[is_cut] - part.cut_at).sum()),
        answers=int(look.has_lost_its_answer[cut].sum()),
        within=int((whole.targets[is_cut] > look.targets[cut]).sum()),
        bars=bars_of(lengths, part.cut_at),
    )


def _capacity(part: Part, tokenizer: Any, model_limit: int | None) -> tuple[int, str | None]:
    """How long a pack is or may be, and the key that says it; without one as long as the longest row."""
    if part.packed is not None:
        return part.packed.max_seq_len, None
    if limit := getattr(tokenizer, "max_seq_len", None):
        return limit, "tokenizer.max_seq_len"
    if model_limit:
        return model_limit, "model.max_seq_len"
    return max(_CAPACITY, int(part.table.lengths.max())), None


def _packing(part: Part, look: Look, limit: tuple[int, str | None], batch_size: int) -> Packing | None:
    """None for pairs of answers."""
    lengths = part.table.lengths[look.targets > 0]  # packs are made of those with something to learn
    if part.side or not len(lengths):
        return None
    (capacity, limited_by), used = limit, _strategy(part.packed)
    cut = int((lengths > capacity).sum())
    if used is None:  # to pack them, the config has to cut them at this length
        lengths = np.minimum(lengths, min(capacity, int(lengths.max())))
    tokens = int(lengths.sum())
    packs = {}
    if lengths.max() <= capacity:
        packs |= {name: int(put(lengths, capacity).max()) + 1 for name, put in STRATEGIES.items()}
    if used == "split":
        packs["split"] = -(-tokens // capacity)
    fills = {name: Fill(count, tokens / (count * capacity)) for name, count in packs.items()}
    return Packing(capacity, used, fills, _filled_batches(part.table.lengths, batch_size), limited_by, cut)


def _trained_in_packs(part: Part) -> int:
    """Of texts that are cut where a pack is full; nothing predicts the first token of each piece."""
    packs, trained = part.packed.over(part.table).packs, part.table.trained
    pieces = (piece for pack in range(len(packs)) for piece in packs.documents(pack))
    return sum(int(trained[start + 1 : stop].sum()) for start, stop in pieces)


def _strategy(packed: PackedDataset | None) -> str | None:
    if packed is None:
        return None
    return "split" if packed.split_across_pack else packed.strategy


def _filled_batches(lengths: np.ndarray, batch_size: int) -> float:
    """Of batches drawn at random and padded to their longest sample."""
    drawn = np.random.default_rng(0).permutation(lengths)
    drawn = drawn[: max(len(drawn) // batch_size, 1) * batch_size]
    longest = drawn.reshape(-1, min(batch_size, len(drawn))).max(axis=1)
    return float(drawn.sum() / (longest.sum() * min(batch_size, len(drawn))))
