"""Text files: each line, paragraph or file is a row with the column ``text``."""

from collections.abc import Iterator
from itertools import groupby
from typing import BinaryIO

from torchtune.datasets._records import Record, decode_utf8, lines
from torchtune.datasets._rows import Row
from torchtune.errors import ConfigError

_UNITS = ("line", "paragraph", "document")


class Text:
    """Lines, paragraphs (lines up to a blank one) or the whole of a file; blank lines are no rows.

    Args:
        sample_by: ``line``, ``paragraph`` or ``document``
    """

    nothing = "holds no text"

    def __init__(self, name: str, sample_by: str = "line") -> None:
        if sample_by not in _UNITS:
            raise ConfigError(f"dataset.sample_by is {sample_by!r}; it must be one of {', '.join(_UNITS)}")
        self.name, self._unit = name, sample_by

    def records(self, file: BinaryIO, start: int = 0, line: int = 1) -> Iterator[Record]:
        found = lines(file, start, line)
        if self._unit == "line":
            yield from (record for record in found if not _is_blank(record))
        elif self._unit == "paragraph":
            yield from (_joined(list(group)) for blank, group in groupby(found, _is_blank) if not blank)
        elif not all(map(_is_blank, whole := list(found))):
            yield _joined(whole)

    def parse(self, raw: bytes, line: int) -> Row:
        return {"text": decode_utf8(raw, self.name, line).rstrip("\r\n")}


def _is_blank(record: Record) -> bool:
    return not record.raw.strip()


def _joined(records: list[Record]) -> Record:
    first, last = records[0], records[-1]
    return Record(b"".join(record.raw for record in records), first.start, first.line, last.after)
