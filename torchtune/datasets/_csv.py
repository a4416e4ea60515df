"""CSV and TSV files: a header line, then rows of text."""

import csv
import hashlib
import io
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchtune.datasets._json import decode_utf8
from torchtune.datasets._rows import Table
from torchtune.errors import DataError


def read_csv(path: Path, delimiter: str = ",") -> Table:
    """The rows of a file as dicts of strings; an empty cell is an empty string.

    Raises:
        DataError: no or doubtful header, a row with another number of cells, an open quote, not UTF-8
    """
    raw = path.read_bytes()
    lines = csv.reader(io.StringIO(decode_utf8(raw, path), newline=""), delimiter=delimiter, strict=True)
    rows, numbers = [], array("q")
    with _fields_of_any_length():
        header = _check_header(next(_cells(lines, path), (0, []))[1], path, delimiter)
        for line, cells in _cells(lines, path):
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, line {line}: {len(cells)} cells, and the header has {len(header)} ({', '.join(header)}). "
                    'Put text that contains the delimiter in quotes, and double the quotes in it: "say ""hi"""'
                )
            rows.append(dict(zip(header, cells)))
            numbers.append(line)
    if not rows:
        raise DataError(f"{path} holds a header and no rows")
    return Table(path, hashlib.sha256(raw).hexdigest(), rows, "line", numbers)


def _cells(lines: "csv.Reader", path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the line it begins in (a quoted cell may hold line ends)."""
    begin = lines.line_num + 1
    try:
        for cells in lines:
            if cells:
                yield begin, cells
            begin = lines.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {begin}: not valid CSV: {error}") from error


def _check_header(header: list[str], path: Path, delimiter: str) -> list[str]:
    if not header:
        raise DataError(f"{path} is empty; expected a header line such as instruction{delimiter}input{delimiter}output")
    if "" in header:
        raise DataError(f"{path}, line 1: column {header.index('') + 1} of the header has no name: {header}")
    if len(set(header)) < len(header):
        raise DataError(f"{path}, line 1: a column name stands twice in the header: {', '.join(header)}")
    if len(header) == 1:
        others = [mark for mark in (",", ";", "\t", "|") if mark != delimiter and mark in header[0]]
        if others:
            raise DataError(f"{path}, line 1: the header is one column; is the `delimiter` {others[0]!r}?")
    return header


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    # The csv module refuses cells over 128 KiB, and its limit is global: lift it for this file only.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
