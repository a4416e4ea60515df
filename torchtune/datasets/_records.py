"""Rows that lie one after the other in a file, each known by its bytes and parsed when it is asked for."""

import codecs
import hashlib
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from torchtune.datasets._rows import Row
from torchtune.errors import ConfigError, DataError

BOM = b"\xef\xbb\xbf"
UTF8 = "utf-8"


class Place(NamedTuple):
    """Where something stands in a file, for messages: the line and, of a list, the item, both from 1."""

    name: str
    line: int
    item: int | None = None

    def __str__(self) -> str:
        return f"{self.name}, line {self.line}" + ("" if self.item is None else f", item {self.item}")


class Record(NamedTuple):
    """The bytes of a row, where they begin (byte; line, from 1), and where what comes after them begins."""

    raw: bytes
    start: int
    line: int
    after: tuple[int, int]


class Format(Protocol):
    """How rows lie in a file, which messages call ``name``.

    ``nothing`` says what is wrong with a file without rows, and ``unusual`` are the options that make other rows of the
    same bytes. ``has_items``: the rows are the items of one list.
    """

    name: str
    nothing: str
    unusual: dict[str, Any]
    has_items: bool

    def records(self, file: BinaryIO, start: int = 0, line: int = 1) -> Iterator[Record]:
        """The rows from a place on where one begins."""

    def parse(self, raw: bytes, place: Place) -> Row:
        """A row.

        Raises:
            DataError: it is malformed; names the place
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
            if form.unusual:
                self.digest = hashlib.sha256(f"{self.digest} {form.unusual}".encode()).hexdigest()
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
        return self._form.parse(raw, self._place(index))

    def where(self, index: int) -> str:
        return str(self._place(index))

    def _place(self, index: int) -> Place:
        return Place(self._form.name, self._lines[index], index + 1 if self._form.has_items else None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)


def unusual(**options: tuple[Any, Any]) -> dict[str, Any]:
    """The options, each given with its usual value, that have another one."""
    return {name: value for name, (value, usual) in options.items() if value != usual}


def check_encoding(encoding: str) -> str:
    """The name of an encoding in which a line break is the byte that it is in ASCII, and so are all of ASCII's letters.

    Raises:
        ConfigError: Python does not know it, or it is of another kind
    """
    ascii_bytes = bytes(range(128))
    try:
        name = codecs.lookup(encoding).name.removesuffix("-sig")
        is_plain = ascii_bytes.decode(name) == ascii_bytes.decode("ascii")
        is_plain = is_plain and all(
            bytes([lead, *b"\n" * 4]).decode(name, "ignore").count("\n") == 4 for lead in range(128, 256)
        )
    except (LookupError, TypeError) as error:
        raise ConfigError(
            f"dataset.encoding is {encoding!r}; it must be an encoding that Python knows, such as latin-1"
        ) from error
    except UnicodeError:
        is_plain = False
    if not is_plain:
        raise ConfigError(
            f"dataset.encoding is {encoding!r}, in which line breaks are not single bytes; convert the file to UTF-8: "
            f"iconv -f {encoding} -t UTF-8 FILE > NEW_FILE"
        )
    return name


def decode(raw: bytes, place: Place, encoding: str = UTF8) -> str:
    """Bytes that begin at a place, as text without a byte order mark.

    Raises:
        DataError: they are not in this encoding; names the line
    """
    try:
        return raw.removeprefix(BOM).decode(encoding)
    except UnicodeDecodeError as error:
        start = error.start + (len(BOM) if raw.startswith(BOM) else 0)
        at = place._replace(line=place.line + raw.count(b"\n", 0, start))
        known = ("UTF-8", "set dataset.encoding, for example cp1252 (Windows) or latin-1, or convert the file")
        name, advice = known if encoding == UTF8 else (encoding, "set dataset.encoding to another, or convert the file")
        raise DataError(f"{at}: byte 0x{raw[start]:02x} is not {name}; {advice}") from error


def printable(text: str) -> str:
    """The text with what a terminal would not print, or would obey, written out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def lines(file: BinaryIO, start: int, line: int) -> Iterator[Record]:
    """The lines of a file with their ends, but without a byte order mark."""
    file.seek(start)
    for number, raw in enumerate(file, line):
        skip = len(BOM) if start == 0 and raw.startswith(BOM) else 0
        after = start + len(raw)
        yield Record(raw[skip:], start + skip, number, (after, number + 1))
        start = after
