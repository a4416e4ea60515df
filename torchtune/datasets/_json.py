"""JSON and JSON-lines files: checked once from end to end, then read row by row from the disk."""

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchtune.datasets._rows import Part, Row, Table
from torchtune.errors import DataError

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")


def read_json(path: Path, field: str | None = None) -> Part:
    """The rows of a file: one object per line, or a list of objects, or (with ``field``) such a list in an object.

    Raises:
        DataError: the file is empty, malformed or not UTF-8, or holds something else than objects
    """
    if field is not None:
        return _read_field(path, field)
    with path.open("rb") as file:
        first = file.read(4096).removeprefix(_BOM).lstrip()[:1]
    return _index_list(path) if first == b"[" else _index_lines(path)


class IndexedJson:
    """Objects in a file, known by their byte ranges and parsed when asked for: 24 bytes of memory per row."""

    def __init__(self, path: Path) -> None:
        self.path, self.digest = path, ""
        self._starts, self._lengths, self._lines = array("q"), array("q"), array("q")
        self._descriptor: int | None = None

    def add(self, start: int, length: int, line: int) -> None:
        """Append a row that lies at these bytes and begins in this line (from 1)."""
        self._starts.append(start)
        self._lengths.append(length)
        self._lines.append(line)

    def __len__(self) -> int:
        return len(self._starts)

    def row(self, index: int) -> Row:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        # pread leaves the position alone, so worker processes may share the descriptor.
        return _parse(os.pread(self._descriptor, self._lengths[index], self._starts[index]), self, self._lines[index])

    def where(self, index: int) -> str:
        return f"{self.path}, line {self._lines[index]}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _index_lines(path: Path) -> IndexedJson:
    rows, digest, start = IndexedJson(path), hashlib.sha256(), 0
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            digest.update(raw)
            skip = len(_BOM) if line == 1 and raw.startswith(_BOM) else 0
            if content := raw[skip:].rstrip():
                _parse(content, rows, line)
                rows.add(start + skip, len(content), line)
            start += len(raw)
    return _finished(rows, digest.hexdigest())


def _index_list(path: Path) -> IndexedJson:
    raw = path.read_bytes()
    text = decode_utf8(raw, path)
    rows, at, line = IndexedJson(path), 0, 1
    byte = len(_BOM) if raw.startswith(_BOM) else 0
    try:
        for start, stop in _elements(text, path):
            byte, line = byte + len(text[at:start].encode()), line + text.count("\n", at, start)
            length = len(text[start:stop].encode())
            rows.add(byte, length, line)
            byte, line, at = byte + length, line + text.count("\n", start, stop), stop
    except json.JSONDecodeError as error:
        raise DataError(_malformed(path, error.lineno, error)) from error
    return _finished(rows, hashlib.sha256(raw).hexdigest())


def _elements(text: str, path: Path) -> Iterator[tuple[int, int]]:
    """Where each object of a list starts and stops in the text."""
    decoder, at = json.JSONDecoder(), _after_space(text, _after_space(text, 0) + 1)
    closed = text[at : at + 1] == "]"
    while not closed:
        value, stop = decoder.raw_decode(text, at)
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {_line_at(text, at)}: expected an object, found {_kind(value)}")
        yield at, stop
        at = _after_space(text, stop)
        closed = text[at : at + 1] == "]"
        if not closed and text[at : at + 1] != ",":
            raise json.JSONDecodeError("expected ',' or ']' after an object of the list", text, at)
        if not closed:
            at = _after_space(text, at + 1)
    rest = _after_space(text, at + 1)
    if rest < len(text):
        raise DataError(f"{path}, line {_line_at(text, rest)}: text behind the end; put all rows in one list")


def _read_field(path: Path, field: str) -> Table:
    raw = path.read_bytes()
    try:
        value = json.loads(decode_utf8(raw, path))
    except json.JSONDecodeError as error:
        raise DataError(_malformed(path, error.lineno, error)) from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: `field: {field}` is for a file that holds one object; this one holds {_kind(value)}")
    if field not in value:
        raise DataError(f"{path}: there is no field {field!r}; the fields are {', '.join(value)}")
    rows = value[field]
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: field {field!r} must be a list of objects, found {_kind(rows)}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, {field} element {number}: expected an object, found {_kind(row)}")
    return Table(path, hashlib.sha256(raw).hexdigest(), rows, f"{field} element", range(1, len(rows) + 1))


def decode_utf8(raw: bytes, path: Path) -> str:
    """The text of a file, without a byte order mark."""
    try:
        return raw.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        start = error.start + (len(_BOM) if raw.startswith(_BOM) else 0)
        raise DataError(_not_utf8(path, raw.count(b"\n", 0, start) + 1, raw[start])) from error


def _parse(raw: bytes, rows: IndexedJson, line: int) -> Row:
    try:
        text = raw.decode("utf-8")
        row = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is valid JSON, and no text
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(rows.path, line, raw[error.start])) from error
    except UnicodeEncodeError as error:
        raise DataError(f"{rows.path}, line {line}: a \\ud... escape stands alone and is no character") from error
    except json.JSONDecodeError as error:
        raise DataError(_malformed(rows.path, line, error) + _hint(rows, line)) from error
    except RecursionError as error:
        raise DataError(f"{rows.path}, line {line}: the JSON is nested too deeply") from error
    if not isinstance(row, dict):
        raise DataError(f"{rows.path}, line {line}: expected an object, found {_kind(row)}")
    return row


def _hint(rows: IndexedJson, line: int) -> str:
    """Advice for a file whose very first row is not complete in its line: it is usually one big object."""
    if len(rows) or line > 1:
        return ""
    try:
        value = json.loads(rows.path.read_bytes())
    except ValueError:
        return ""
    lists = [key for key, item in value.items() if isinstance(item, list)] if isinstance(value, dict) else []
    return f". The file is one object; if its rows are in a list, name it: `field: {'|'.join(lists) or '<name>'}`"


def _finished(rows: IndexedJson, digest: str) -> IndexedJson:
    if not len(rows):
        raise DataError(f"{rows.path} holds no rows; expected one JSON object per line, or a list of objects")
    rows.digest = digest
    return rows


def _malformed(path: Path, line: int, error: json.JSONDecodeError) -> str:
    before, after = error.doc[max(error.pos - 30, 0) : error.pos], error.doc[error.pos : error.pos + 30]
    near = (before + " >>> " + after).replace("\n", " ").strip()
    return f"{path}, line {line}, column {error.colno}: not valid JSON: {error.msg}, at >>> in: {near}"


def _not_utf8(path: Path, line: int, byte: int) -> str:
    return f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"


def _after_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()


def _line_at(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return {list: "a list", dict: "an object", str: "a string"}[type(value)] + ("" if value else " that is empty")
