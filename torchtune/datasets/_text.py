"""Text files: each line, paragraph or file is a row with the column ``text``."""

from collections.abc import Iterator
from itertools import groupby
from typing import BinaryIO

from torchtune.datasets._records import UTF8, Place, Record, decode, lines, unusual
from torchtune.datasets._rows import Row
from torchtune.errors import ConfigError

_UNITS = ("line", "paragraph", "document")


class Text:
    """Lines, paragraphs (lines up to a blank one) or the whole of a file; blank lines are no rows.

    Args:
        sample_by: ``line``, ``paragraph`` or ``document``
    """

    nothing = "holds no text"
    has_items = False

    def __init__(self, name: str, sample_by: str = "line", encoding: str = UTF8) -> None:
        if sample_by not in _UNITS:
            raise ConfigError(f"dataset.sample_by is {sample_by!r}; it must be one of {', '.join(_UNITS)}")
        self.name, self._unit, self._encoding = name, sample_by, encoding
        self.unusual = unusual(sample_by=(sample_by, "line"), encoding=(encoding, UTF8))

    def records(self, file: BinaryIO, start: int = 0, line: int = 1) -> Iterator[Record]:
        found = lines(file, start, line)
        if self._unit == "line":
            yield from (record for record in found if not _is_blank(record))
        elif self._unit == "paragraph":
            yield from (_joined(list(group)) for blank, group in groupby(found, _is_blank) if not blank)
        elif not all(map(_is_blank, whole := list(found))):
            yield _joined(whole)

    def parse(self, raw: bytes, place: Place) -> Row:
        return {"text": decode(raw, place, self._encoding).rstrip("\r\n")}


def _is_blank(record: Record) -> bool:
    return not record.raw.strip()


def _joined(records: list[Record]) -> Record:
    first, last = records[0], records[-1]
    return Record(b"".join(record.raw for record in records), first.start, first.line, last.after)
