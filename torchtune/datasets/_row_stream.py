"""Rows read one after the other while training, in an order that is shuffled in blocks and known by its position."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np

from torchtune.data._stream import Order, Position
from torchtune.datasets._files import open_file, size_of
from torchtune.datasets._parquet import parquet_rows
from torchtune.datasets._records import Format, Place
from torchtune.datasets._rows import Row
from torchtune.errors import DataError

DEFAULT_BUFFER = 10_000  # rows


class PlacedRow(NamedTuple):
    """A row, its file and line for messages, and the place behind it in its unit."""

    row: Row
    where: str
    after: list[int]


class Unit(Protocol):
    """What is read from its beginning to its end or from a place on: a file, or a shard of a dataset on the Hub."""

    @property
    def identity(self) -> str:
        """Tells it from others."""

    def rows(self, place: list[int] | None = None) -> Iterator[PlacedRow]: ...


class RecordUnit(NamedTuple):
    """A file of rows that lie one after the other."""

    name: str
    form: Format

    @property
    def identity(self) -> str:
        return f"{self.name} ({size_of(self.name)} bytes)" + (f" {self.form.unusual}" if self.form.unusual else "")

    def rows(self, place: list[int] | None = None) -> Iterator[PlacedRow]:
        form = self.form
        with open_file(self.name) as file:
            for record in form.records(file, *(place or ())):
                where = Place(self.name, record.line)
                yield PlacedRow(form.parse(record.raw, where), str(where), list(record.after))


class ParquetUnit(NamedTuple):
    """A Parquet file."""

    name: str

    @property
    def identity(self) -> str:
        return f"{self.name} ({size_of(self.name)} bytes)"

    def rows(self, place: list[int] | None = None) -> Iterator[PlacedRow]:
        start = place[0] if place else 0
        with open_file(self.name) as file:
            for number, row in enumerate(parquet_rows(file, self.name, start), start):
                yield PlacedRow(row, f"{self.name}, row {number + 1}", [number + 1])


class RowFilter(NamedTuple):
    """Which rows of a stream count; ``identity`` tells it from others."""

    keeps: Callable[[PlacedRow], bool]
    identity: str


class RowStream:
    """Rows of some units. Shuffled, the units come in a new order, and the rows of each block of ``buffer`` rows too.

    Args:
        kept: which rows count; None: all
        buffer: rows that are in memory together when shuffled
    """

    def __init__(self, units: Sequence[Unit], kept: RowFilter | None = None, buffer: int = DEFAULT_BUFFER) -> None:
        self._units, self._kept, self._buffer = units, kept, buffer

    def __len__(self) -> int:
        raise TypeError("a stream of rows has no length")

    def __getitem__(self, index: int) -> Row:
        raise TypeError("the rows of a stream have no numbers; iterate over it, or take its head")

    def ordered(self, order: Order, at: Position | None = None) -> Iterator[tuple[PlacedRow, Position]]:
        """The rows behind a position, each with the position behind it: block, place of the block, rows given of it."""
        block, place, given = at or (0, None, 0)
        rows = self._rows(order, place)
        while taken := list(islice(rows, self._buffer if order.shuffle else 1)):
            numbers = order.generator(block).permutation(len(taken)) if order.shuffle else range(len(taken))
            for number in range(given, len(taken)):
                yield taken[numbers[number]], [block, place, number + 1]
            block, place, given = block + 1, taken[-1].after, 0

    def head(self, count: int) -> "Head":
        """The first rows, as they are stored.

        Raises:
            DataError: there is none
        """
        rows = list(islice(self._rows(Order((), shuffle=False)), count))
        if not rows:
            kept = " that filter_fn keeps" if self._kept else ""
            raise DataError(f"{self._units[0].identity}: there are no rows{kept}")
        return Head(rows)

    def fingerprint(self) -> str:
        """Changes with names and sizes of files, and not with what is in them; and with what a position depends on."""
        parts = [*(unit.identity for unit in self._units), self._buffer, self._kept and self._kept.identity]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _rows(self, order: Order, place: list[int] | None = None) -> Iterator[PlacedRow]:
        """The rows that count behind a place, which is the number of units before and a place in a unit."""
        numbers = range(len(self._units))
        units = order.generator().permutation(numbers) if order.shuffle else numbers
        first, inner = (place[0], place[1:]) if place else (0, None)
        for turn in range(first, len(units)):
            for found in self._units[units[turn]].rows(inner):
                if self._kept is None or self._kept.keeps(found):
                    yield found._replace(after=[turn, *found.after])
            inner = None


class Head:
    """The first rows of a stream, by number."""

    is_local = True

    def __init__(self, rows: Sequence[PlacedRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index].row

    def where(self, index: int) -> str:
        return self._rows[index].where

    def select(self, indices: np.ndarray) -> "Head":
        return Head([self._rows[index] for index in indices])

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self._rows).encode()).hexdigest()
