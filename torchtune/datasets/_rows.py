"""Rows of local files: found again by number, and always able to say which file and line they came from."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Row = dict[str, Any]


class Rows(Protocol):
    """What a dataset reads from, local or from the Hub."""

    is_local: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...

    def where(self, index: int) -> str:
        """File and line of a row, for messages."""

    def select(self, indices: np.ndarray) -> "Rows":
        """The rows with these numbers, in this order."""

    def fingerprint(self) -> str:
        """Equal for equal rows in equal order."""


class Part(Protocol):
    """The rows of one file; ``digest`` is the hash of its bytes."""

    digest: str

    def __len__(self) -> int: ...

    def row(self, index: int) -> Row: ...

    def where(self, index: int) -> str: ...


class Table(NamedTuple):
    """Rows held in memory, with the line (or the place in a list) of each."""

    name: str
    digest: str
    rows: Sequence[Row]
    unit: str
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> Row:
        return self.rows[index]

    def where(self, index: int) -> str:
        return f"{self.name}, {self.unit} {self.numbers[index]}"


class LocalRows:
    """The rows of some files laid end to end, or a selection of them."""

    is_local = True

    def __init__(self, parts: Sequence[Part], order: np.ndarray | None = None) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self._order = np.arange(self._ends[-1]) if order is None else order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Row:
        part, row = self._find(index)
        return part.row(row)

    def where(self, index: int) -> str:
        part, row = self._find(index)
        return part.where(row)

    def select(self, indices: np.ndarray) -> "LocalRows":
        return LocalRows(self._parts, self._order[indices])

    def fingerprint(self) -> str:
        content = hashlib.sha256("".join(part.digest for part in self._parts).encode())
        content.update(self._order.astype(np.int64).tobytes())
        return content.hexdigest()

    def _find(self, index: int) -> tuple[Part, int]:
        row = int(self._order[index])
        part = int(np.searchsorted(self._ends, row, side="right"))
        return self._parts[part], row - (int(self._ends[part - 1]) if part else 0)
