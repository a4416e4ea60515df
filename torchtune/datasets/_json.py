"""JSON and JSON-lines files: rows are objects, one per line or in a list."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from torchtune.datasets._records import BOM, IndexedFile, Record, decode_utf8, lines
from torchtune.datasets._rows import Part, Row, Table
from torchtune.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
_LOOKED_THROUGH = 1 << 26  # bytes of the largest file that is read whole only to give better advice


def read_json(path: Path, name: str, field: str | None = None) -> Part:
    """The rows of a file: one object per line, or a list of objects, or (with ``field``) such a list in an object.

    Args:
        name: what messages call the file

    Raises:
        DataError: the file is empty, malformed or not UTF-8, or holds something else than objects
    """
    if field is not None:
        return _read_field(path, name, field)
    with path.open("rb") as file:
        is_list = begins_list(file)
    return IndexedFile(path, JsonList(name) if is_list else JsonLines(name, path))


def begins_list(file: BinaryIO) -> bool:
    """Whether a file is one list, and not lines."""
    return file.read(4096).removeprefix(BOM).lstrip()[:1] == b"["


class JsonLines:
    """One object per line; blank lines are no rows.

    Args:
        path: where the file lies, for advice on one that is no JSON lines.
    """

    nothing = "holds no rows; expected one JSON object per line, or a list of objects"

    def __init__(self, name: str, path: Path | None = None) -> None:
        self.name, self._path = name, path

    def records(self, file: BinaryIO, start: int = 0, line: int = 1) -> Iterator[Record]:
        found = (record._replace(raw=record.raw.rstrip()) for record in lines(file, start, line))
        return (record for record in found if record.raw)

    def parse(self, raw: bytes, line: int) -> Row:
        try:
            text = decode_utf8(raw, self.name, line)
            row = json.loads(text)
            if "\\ud" in text or "\\uD" in text:
                json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is valid JSON, and no text
        except UnicodeEncodeError as error:
            raise DataError(f"{self.name}, line {line}: a \\ud... escape stands alone and is no character") from error
        except json.JSONDecodeError as error:
            raise DataError(_malformed(self.name, line, error) + (self._hint() if line == 1 else "")) from error
        except RecursionError as error:
            raise DataError(f"{self.name}, line {line}: the JSON is nested too deeply") from error
        if not isinstance(row, dict):
            raise DataError(f"{self.name}, line {line}: expected an object, found {_kind(row)}")
        return row

    def _hint(self) -> str:
        """Advice for a file whose very first row is not complete in its line: it is usually one big object."""
        if self._path is None or self._path.stat().st_size > _LOOKED_THROUGH:
            return ""
        try:
            value = json.loads(self._path.read_bytes())
        except ValueError:
            return ""
        lists = [key for key, item in value.items() if isinstance(item, list)] if isinstance(value, dict) else []
        return f". The file is one object; if its rows are in a list, name it: `field: {'|'.join(lists) or '<name>'}`"


class JsonList(JsonLines):
    """The objects of one list, each on any number of lines."""

    def records(self, file: BinaryIO, start: int = 0, line: int = 1) -> Iterator[Record]:
        file.seek(0)
        raw = file.read()
        text = decode_utf8(raw, self.name)
        at, byte = 0, len(BOM) if raw.startswith(BOM) else 0
        try:
            for begin, end in self._elements(text):
                byte, line = byte + len(text[at:begin].encode()), line + text.count("\n", at, begin)
                element = text[begin:end].encode()
                after = byte + len(element), line + text.count("\n", begin, end)
                yield Record(element, byte, line, after)
                (byte, line), at = after, end
        except json.JSONDecodeError as error:
            raise DataError(_malformed(self.name, error.lineno, error)) from error

    def _elements(self, text: str) -> Iterator[tuple[int, int]]:
        """Where each object of a list starts and stops in the text."""
        decoder, at = json.JSONDecoder(), _after_space(text, _after_space(text, 0) + 1)
        closed = text[at : at + 1] == "]"
        while not closed:
            value, stop = decoder.raw_decode(text, at)
            if not isinstance(value, dict):
                raise DataError(f"{self.name}, line {_line_at(text, at)}: expected an object, found {_kind(value)}")
            yield at, stop
            at = _after_space(text, stop)
            closed = text[at : at + 1] == "]"
            if not closed and text[at : at + 1] != ",":
                raise json.JSONDecodeError("expected ',' or ']' after an object of the list", text, at)
            if not closed:
                at = _after_space(text, at + 1)
        rest = _after_space(text, at + 1)
        if rest < len(text):
            raise DataError(f"{self.name}, line {_line_at(text, rest)}: text behind the end; put all rows in one list")


def _read_field(path: Path, name: str, field: str) -> Table:
    raw = path.read_bytes()
    try:
        value = json.loads(decode_utf8(raw, name))
    except json.JSONDecodeError as error:
        raise DataError(_malformed(name, error.lineno, error)) from error
    if not isinstance(value, dict):
        raise DataError(f"{name}: `field: {field}` is for a file that holds one object; this one holds {_kind(value)}")
    if field not in value:
        raise DataError(f"{name}: there is no field {field!r}; the fields are {', '.join(value)}")
    rows = value[field]
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{name}: field {field!r} must be a list of objects, found {_kind(rows)}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{name}, {field} element {number}: expected an object, found {_kind(row)}")
    return Table(name, hashlib.sha256(raw).hexdigest(), rows, f"{field} element", range(1, len(rows) + 1))


def _malformed(name: str, line: int, error: json.JSONDecodeError) -> str:
    before, after = error.doc[max(error.pos - 30, 0) : error.pos], error.doc[error.pos : error.pos + 30]
    near = (before + " >>> " + after).replace("\n", " ").strip()
    return f"{name}, line {line}, column {error.colno}: not valid JSON: {error.msg}, at >>> in: {near}"


def _after_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()


def _line_at(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return {list: "a list", dict: "an object", str: "a string"}[type(value)] + ("" if value else " that is empty")
