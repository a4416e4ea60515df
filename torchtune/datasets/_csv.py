"""CSV and TSV files: a header line, then rows of text."""

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from torchtune.datasets._records import UTF8, Place, Record, decode, lines, printable, unusual
from torchtune.datasets._rows import Row
from torchtune.errors import DataError

_MOST_SHOWN = 300  # characters of a header
_ADVICE = {  # part of what the csv module says -> what is wrong
    "new-line character": (
        "a carriage return (\\r) outside of quotes has no line feed (\\n) behind it; put the text in quotes, or, if "
        "all lines end so, convert the file: tr '\\r' '\\n' < FILE > NEW_FILE"
    ),
    "unexpected end of data": (
        "a cell in this row begins with a quote and does not end; close it, or double the quotes that belong to the "
        'text: "say ""hi"""'
    ),
    "expected after": (
        'text follows the quote that ends a cell; double the quotes that belong to the text: "say ""hi"""'
    ),
}


class Csv:
    """Rows as dicts of strings; an empty cell is an empty string, and blank lines are no rows."""

    nothing = "holds a header and no rows"
    has_items = False

    def __init__(self, name: str, delimiter: str = ",", encoding: str = UTF8) -> None:
        self.name, self._delimiter, self._encoding = name, delimiter, encoding
        self.unusual = unusual(delimiter=(delimiter, ","), encoding=(encoding, UTF8))
        self._header: list[str] = []

    def records(self, file: BinaryIO, start: int = 0, line: int = 1) -> Iterator[Record]:
        with _cells_of_any_length():
            header = next(self._scan(file, 0, 1), None)
            self._header = self._check_header([] if header is None else self._cells(header.raw, self._place(header)))
            yield from self._scan(file, *max((start, line), header.after))

    def parse(self, raw: bytes, place: Place) -> Row:
        with _cells_of_any_length():
            cells = self._cells(raw, place)
        if len(cells) != len(self._header):
            header = _shown(self._header)
            raise DataError(
                f"{place}: {len(cells)} cells, and the header has {len(self._header)} ({header}). Put text that "
                'contains the delimiter in quotes, and double the quotes in it: "say ""hi"""'
            )
        return dict(zip(self._header, cells))

    def _scan(self, file: BinaryIO, start: int, line: int) -> Iterator[Record]:
        """Each row that is not blank; a quoted cell may hold line ends, so a row may have several lines."""
        taken: list[Record] = []
        reader = csv.reader(self._decoded(file, start, line, taken), delimiter=self._delimiter, strict=True)
        try:
            for cells in reader:
                if cells:
                    raw = b"".join(each.raw for each in taken)
                    yield Record(raw, taken[0].start, taken[0].line, taken[-1].after)
                taken.clear()
        except csv.Error as error:
            raise _malformed(self._place(taken[0]), error) from error

    def _decoded(self, file: BinaryIO, start: int, line: int, taken: list[Record]) -> Iterator[str]:
        for record in lines(file, start, line):
            taken.append(record)
            yield decode(record.raw, self._place(record), self._encoding)

    def _cells(self, raw: bytes, place: Place) -> list[str]:
        text = decode(raw, place, self._encoding)
        try:
            return next(csv.reader([text], delimiter=self._delimiter, strict=True), [])
        except csv.Error as error:
            raise _malformed(place, error) from error

    def _place(self, record: Record) -> Place:
        return Place(self.name, record.line)

    def _check_header(self, header: list[str]) -> list[str]:
        if not header:
            columns = self._delimiter.join(("instruction", "input", "output"))
            raise DataError(f"{self.name} is empty; expected a header line such as {columns}")
        if "" in header:
            number = header.index("") + 1
            raise DataError(f"{self.name}, line 1: column {number} of the header has no name: {_shown(header)}")
        if len(set(header)) < len(header):
            raise DataError(f"{self.name}, line 1: a column name stands twice in the header: {_shown(header)}")
        if len(header) == 1:
            others = [mark for mark in (",", ";", "\t", "|") if mark != self._delimiter and mark in header[0]]
            if others:
                raise DataError(f"{self.name}, line 1: the header is one column; is the `delimiter` {others[0]!r}?")
        return header


def _shown(cells: list[str]) -> str:
    text = printable(", ".join(cells))
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _malformed(place: Place, error: csv.Error) -> DataError:
    advice = next((advice for part, advice in _ADVICE.items() if part in str(error)), str(error))
    return DataError(f"{place}: not valid CSV: {advice}")


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    # The csv module refuses cells over 128 KiB, and its limit is global: lift it for this file only.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
