"""Some samples, token by token: their text, and which of it the model is trained on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from torchtune.datasets._parts import Part
from torchtune.datasets._prepare import Preparation
from torchtune.datasets._readable import pieces_of, special_names

_SHOWN = 120  # tokens at each end of a long stretch
_AROUND = 8  # tokens that are decoded with those that are shown: a letter may be made of several


@dataclass(frozen=True)
class Piece:
    """Some text and its ids: mostly one, more where a letter is made of several.

    Args:
        trained: the loss counts it.
        special: a token that no text becomes; the text is its name.
    """

    text: str
    ids: list[int]
    trained: bool
    special: bool


@dataclass(frozen=True)
class Gap:
    """Tokens in the middle of a long stretch that are not shown."""

    tokens: int
    trained: bool


@dataclass(frozen=True)
class Cut:
    """Where a row was cut.

    Args:
        tokens: that are lost.
        side: ``left`` or ``right``: which end of the document it is.
        limit: the tokens that were left.
    """

    tokens: int
    side: str
    limit: int


@dataclass(frozen=True)
class Document:
    """A row's tokens, or the piece of them that lies in a pack; ``where`` is its file and line.

    Args:
        cut: None where the row was not cut, or the piece does not reach to where it was.
    """

    where: str
    tokens: int
    trained: int
    pieces: list[Piece | Gap]
    cut: Cut | None


@dataclass(frozen=True)
class Sample:
    """What training draws: one document, or a pack of several and ``padding`` tokens."""

    title: str
    documents: list[Document]
    padding: int = 0


def samples_of(
    part: Part, tokenizer: Any, count: int, seed: int, rows: Sequence[int] = (), *, whole: bool = False
) -> list[Sample]:
    """Samples drawn at random, in their order; or those of these rows that there are, counted from 1, each by itself.

    Args:
        whole: leave no gaps in long samples.

    Raises:
        DataError: the samples cannot be packed.
    """
    if rows:
        part = part.only(np.array([row - 1 for row in rows if row <= len(part.source)], dtype=int))
    view = _View(part, tokenizer, whole)
    if rows:
        return list(map(view.unpacked, range(len(part.table))))
    if part.packed is None:
        return list(map(view.unpacked, _drawn(len(part.table), count, seed)))
    packed = part.packed.over(part.table)
    return [view.pack(packed, number) for number in _drawn(len(packed), count, seed)]


def _drawn(total: int, count: int, seed: int) -> list[int]:
    return sorted(np.random.default_rng(seed).permutation(total)[:count].tolist())


class _View:
    """The samples of a part as they are shown."""

    def __init__(self, part: Part, tokenizer: Any, whole: bool) -> None:
        self._part, self._tokenizer, self._whole = part, tokenizer, whole

    def unpacked(self, position: int) -> Sample:
        stop = int(self._part.table.ends[position])
        start = stop - int(self._part.table.lengths[position])
        return Sample(f"row {int(self._part.numbers[position]) + 1:,}", [self._document(start, stop)])

    def pack(self, packed: Any, number: int) -> Sample:
        places = packed.packs.documents(number)
        padding = packed.max_seq_len - sum(stop - start for start, stop in places)
        documents = [self._document(start, stop) for start, stop in places]
        return Sample(f"pack {number + 1:,} of {len(packed):,}", documents, padding)

    def _document(self, start: int, stop: int) -> Document:
        """The tokens from ``start`` to ``stop`` of the part's table; nothing predicts the first of them."""
        table = self._part.table
        ids, trained = table.tokens[start:stop].tolist(), table.trained[start:stop].tolist()
        trained[:1] = [False] * len(trained[:1])
        position = int(np.searchsorted(table.ends, start, side="right"))
        pieces = list(self._pieces(ids, trained))
        return Document(self._part.where(position), len(ids), sum(trained), pieces, self._cut_of(position, start, stop))

    def _pieces(self, ids: list[int], trained: list[bool]) -> Iterator[Piece | Gap]:
        """What is shown; only that is decoded."""
        special = special_names(self._tokenizer)
        reached = 0
        for start, stop in [(0, len(ids))] if self._whole else _shown(trained):
            at = max(start - _AROUND, 0)
            for own, text in pieces_of(self._tokenizer, ids[at : stop + _AROUND]):
                if start <= at < stop:
                    if at > reached:
                        yield Gap(at - reached, trained[reached])
                    reached = at + len(own)
                    yield Piece(text, own, any(trained[at:reached]), own[0] in special)
                at += len(own)

    def _cut_of(self, position: int, start: int, stop: int) -> Cut | None:
        part = self._part
        end, length = int(part.table.ends[position]), int(part.table.lengths[position])
        if part.cut_at is None or length < part.cut_at:
            return None
        row = part.uncut(np.array([position]), Preparation(workers=0, is_main=False))
        lost = int(row.lengths[0]) - part.cut_at
        # The last token may have been put there in place of what was cut.
        is_begin = np.array_equal(row.tokens[: length - 1], part.table.tokens[end - length : end - 1])
        reaches = stop == end if is_begin else start == end - length
        return Cut(lost, "right" if is_begin else "left", part.cut_at) if lost > 0 and reaches else None


def _shown(trained: list[bool]) -> list[tuple[int, int]]:
    """The stretches of tokens, from and to, that are shown: all but the middle of long ones of one kind."""
    bounds, at = [0], 0
    for _, run in groupby(trained):
        length = sum(1 for _ in run)
        if length > 3 * _SHOWN:
            bounds += [at + _SHOWN, at + length - _SHOWN]
        at += length
    return list(zip(bounds[::2], [*bounds[1::2], at]))
