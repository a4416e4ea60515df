"""Some samples, token by token: their text, and which of it the model is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchtune.datasets._parts import Part
from torchtune.datasets._readable import pieces_of, special_names


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
class Document:
    """A row's tokens, or the piece of them that lies in a pack; ``where`` is its file and line."""

    where: str
    tokens: int
    trained: int
    pieces: list[Piece]


@dataclass(frozen=True)
class Sample:
    """What training draws: one document, or a pack of several and ``padding`` tokens."""

    title: str
    documents: list[Document]
    padding: int = 0


def samples_of(part: Part, tokenizer: Any, count: int, seed: int, rows: Sequence[int] = ()) -> list[Sample]:
    """Samples drawn at random, in their order; or those of these rows that there are, counted from 1, each by itself.

    Raises:
        DataError: the samples cannot be packed.
    """
    if rows:
        part = part.only(np.array([row - 1 for row in rows if row <= len(part.source)], dtype=int))
        return [_unpacked(part, position, tokenizer) for position in range(len(part.table))]
    if part.packed is None:
        return [_unpacked(part, position, tokenizer) for position in _drawn(len(part.table), count, seed)]
    packed = part.packed.over(part.table)
    return [_pack(part, packed, number, tokenizer) for number in _drawn(len(packed), count, seed)]


def _drawn(total: int, count: int, seed: int) -> list[int]:
    return sorted(np.random.default_rng(seed).permutation(total)[:count].tolist())


def _unpacked(part: Part, position: int, tokenizer: Any) -> Sample:
    stop = int(part.table.ends[position])
    start = stop - int(part.table.lengths[position])
    return Sample(f"row {int(part.numbers[position]) + 1:,}", [_document(part, start, stop, tokenizer)])


def _pack(part: Part, packed: Any, number: int, tokenizer: Any) -> Sample:
    places = packed.packs.documents(number)
    padding = packed.max_seq_len - sum(stop - start for start, stop in places)
    documents = [_document(part, start, stop, tokenizer) for start, stop in places]
    return Sample(f"pack {number + 1:,} of {len(packed):,}", documents, padding)


def _document(part: Part, start: int, stop: int, tokenizer: Any) -> Document:
    """The tokens from ``start`` to ``stop`` of the part's table; nothing predicts the first of them."""
    ids, trained = part.table.tokens[start:stop].tolist(), part.table.trained[start:stop].tolist()
    trained[:1] = [False] * len(trained[:1])
    special = special_names(tokenizer)
    pieces, at = [], 0
    for own, text in pieces_of(tokenizer, ids):
        pieces.append(Piece(text, own, any(trained[at : at + len(own)]), own[0] in special))
        at += len(own)
    position = int(np.searchsorted(part.table.ends, start, side="right"))
    return Document(part.where(position), len(ids), sum(trained), pieces)
