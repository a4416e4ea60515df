"""Rows that lie one after the other in a file, each known by its bytes and parsed when it is asked for."""

import hashlib
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from torchtune.datasets._rows import Row
from torchtune.errors import DataError

BOM = b"\xef\xbb\xbf"


class Record(NamedTuple):
    """The bytes of a row, where they begin (byte; line, from 1), and where what comes after them begins."""

    raw: bytes
    start: int
    line: int
    after: tuple[int, int]


class Format(Protocol):
    """How rows lie in a file, which messages call ``name``; ``nothing`` says what is wrong with one without rows."""

    name: str
    nothing: str

    def records(self, file: BinaryIO, start: int = 0, line: int = 1) -> Iterator[Record]:
        """The rows from a place on where one begins."""

    def parse(self, raw: bytes, line: int) -> Row:
        """A row.

        Raises:
            DataError: it is malformed; names the file and the line
        """


class IndexedFile:
    """The rows of a file by number: 24 bytes of memory for each. Whether one is malformed shows when it is read.

    Raises:
        DataError: the file has no rows, or it cannot be told where one ends
    """

    def __init__(self, path: Path, form: Format) -> None:
        self._path, self._form = path, form
        self._starts, self._lengths, self._lines = array("q"), array("q"), array("q")
        self._descriptor: int | None = None
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
            for record in form.records(file):
                self._starts.append(record.start)
                self._lengths.append(len(record.raw))
                self._lines.append(record.line)
        if not self._lines:
            raise DataError(f"{form.name} {form.nothing}")

    def __len__(self) -> int:
        return len(self._lines)

    def row(self, index: int) -> Row:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY)
        # pread leaves the position alone, so worker processes may share the descriptor.
        raw = os.pread(self._descriptor, self._lengths[index], self._starts[index])
        return self._form.parse(raw, self._lines[index])

    def where(self, index: int) -> str:
        return f"{self._form.name}, line {self._lines[index]}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)


def decode_utf8(raw: bytes, name: str, line: int = 1) -> str:
    """Bytes that begin in a line of a file, as text without a byte order mark.

    Raises:
        DataError: they are not UTF-8; names the line
    """
    try:
        return raw.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        start = error.start + (len(BOM) if raw.startswith(BOM) else 0)
        at = line + raw.count(b"\n", 0, start)
        raise DataError(f"{name}, line {at}: byte 0x{raw[start]:02x} is not UTF-8; save the file as UTF-8") from error


def lines(file: BinaryIO, start: int, line: int) -> Iterator[Record]:
    """The lines of a file with their ends, but without a byte order mark."""
    file.seek(start)
    for number, raw in enumerate(file, line):
        skip = len(BOM) if start == 0 and raw.startswith(BOM) else 0
        after = start + len(raw)
        yield Record(raw[skip:], start + skip, number, (after, number + 1))
        start = after
