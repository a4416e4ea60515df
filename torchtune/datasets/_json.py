"""JSON and JSON-lines files: rows are objects, one per line or in a list."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from torchtune.datasets._records import BOM, UTF8, IndexedFile, Place, Record, decode, lines, printable, unusual
from torchtune.datasets._rows import Part, Row
from torchtune.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
_LOOKED_THROUGH = 1 << 26  # bytes of a file that are read only to give better advice


def read_json(path: Path, name: str, field: str | None = None, encoding: str = UTF8) -> Part:
    """The rows of a file: one object per line, or a list of objects, or (with ``field``) such a list in an object.

    Args:
        name: what messages call the file

    Raises:
        DataError: the file is empty, malformed or of another encoding, or holds something else than objects
    """
    with path.open("rb") as file:
        is_list = field is not None or is_one_list(file, name, encoding)
    return IndexedFile(path, JsonList(name, encoding, field) if is_list else JsonLines(name, encoding))


def is_one_list(file: BinaryIO, name: str, encoding: str = UTF8) -> bool:
    """Whether a file, open at its beginning, is one list, and not objects in a line each.

    Raises:
        DataError: it is one object or several ones, of which the first has several lines
    """
    begin = file.readline(_LOOKED_THROUGH).removeprefix(BOM)
    while not begin.strip() and (line := file.readline(_LOOKED_THROUGH)):
        begin += line
    opening = begin.lstrip()[:1]
    if opening == b"{" and not _is_json(begin, encoding):
        _refuse_long_object(begin + file.read(_LOOKED_THROUGH), name, encoding)
    return opening == b"["


class JsonLines:
    """One object per line; blank lines are no rows."""

    nothing = "holds no rows; expected one JSON object per line, or a list of objects"
    has_items = False

    def __init__(self, name: str, encoding: str = UTF8) -> None:
        self.name, self._encoding = name, encoding
        self.unusual = unusual(encoding=(encoding, UTF8))

    def records(self, file: BinaryIO, start: int = 0, line: int = 1) -> Iterator[Record]:
        found = (record._replace(raw=record.raw.rstrip()) for record in lines(file, start, line))
        return (record for record in found if record.raw)

    def parse(self, raw: bytes, place: Place) -> Row:
        text = decode(raw, place, self._encoding)
        try:
            row = _EACH_KEY_ONCE.decode(text)
            if "\\ud" in text or "\\uD" in text:
                json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is valid JSON, and no text
        except _Twice as error:
            raise DataError(f"{place}: {error}") from error
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: a \\ud... escape stands alone and is no character") from error
        except json.JSONDecodeError as error:
            raise DataError(_malformed(place, error)) from error
        except (RecursionError, ValueError) as error:
            raise DataError(f"{place}: {_why(error)}") from error
        if not isinstance(row, dict):
            hint = '; a dialogue stands below a key: {"messages": [...]}' if isinstance(row, list) and row else ""
            raise DataError(f"{place}: expected an object, found {_kind(row)}{hint}")
        return row


class JsonList(JsonLines):
    """The items of one list, each on any number of lines.

    Args:
        field: the list is the value of this key of the one object in the file; None: it is the whole file.
    """

    has_items = True

    def __init__(self, name: str, encoding: str = UTF8, field: str | None = None) -> None:
        super().__init__(name, encoding)
        self._field = field
        self.unusual |= unusual(field=(field, None))

    def records(self, file: BinaryIO, start: int = 0, line: int = 1) -> Iterator[Record]:
        file.seek(0)
        raw = file.read()
        text = decode(raw, Place(self.name, 1), self._encoding)
        at, byte = 0, len(BOM) if raw.startswith(BOM) else 0
        if text.encode(self._encoding) != raw[byte:]:  # then places in the text do not tell where the bytes are
            raise DataError(f"{self.name} is not as Python writes {self._encoding}; convert the file to UTF-8")
        try:
            for begin, end in self._items(text):
                byte, line = byte + len(text[at:begin].encode(self._encoding)), line + text.count("\n", at, begin)
                item = text[begin:end].encode(self._encoding)
                after = byte + len(item), line + text.count("\n", begin, end)
                yield Record(item, byte, line, after)
                (byte, line), at = after, end
        except json.JSONDecodeError as error:
            raise DataError(_malformed(Place(self.name, error.lineno), error)) from error

    def _items(self, text: str) -> Iterator[tuple[int, int]]:
        """Where each item of the list starts and stops in the text."""
        begin = _after_space(text, 0) if self._field is None else self._begin_of_field(text, self._field)
        at = _after_space(text, begin + 1)
        closed = text[at : at + 1] == "]"
        count = 0
        while not closed:
            count += 1
            try:
                _, stop = _ANY.raw_decode(text, at)
            except json.JSONDecodeError:
                raise
            except (RecursionError, ValueError) as error:
                raise DataError(f"{Place(self.name, _line_at(text, at), count)}: {_why(error)}") from error
            yield at, stop
            at = _after_space(text, stop)
            closed = text[at : at + 1] == "]"
            if not closed and text[at : at + 1] != ",":
                raise json.JSONDecodeError("expected ',' or ']' after an item of the list", text, at)
            if not closed:
                at = _after_space(text, at + 1)
        rest = _after_space(text, at + 1)
        if self._field is None and rest < len(text):
            raise DataError(f"{self.name}, line {_line_at(text, rest)}: text behind the end; put all rows in one list")

    def _begin_of_field(self, text: str, field: str) -> int:
        try:
            value = _ANY.decode(text)
        except json.JSONDecodeError:
            raise
        except (RecursionError, ValueError) as error:
            raise DataError(f"{self.name}: {_why(error)}") from error
        if not isinstance(value, dict):
            found = _kind(value)
            raise DataError(
                f"{self.name}: `field: {field}` is for a file that holds one object; this one holds {found}"
            )
        if field not in value:
            fields = printable(", ".join(value))
            raise DataError(f"{self.name}: there is no field {field!r}; the fields are {fields}")
        if not isinstance(value[field], list) or not value[field]:
            found = _kind(value[field])
            raise DataError(f"{self.name}: field {field!r} must be a list of objects, found {found}")
        first, *others = (begin for key, begin in _members(text) if key == field)
        if others:
            raise DataError(f"{self.name}, line {_line_at(text, others[0])}: {_Twice(field)}")
        return first


class _Twice(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} stands twice in one object")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(key for key in keys if keys.count(key) > 1))
    return found


_ANY = json.JSONDecoder()
_EACH_KEY_ONCE = json.JSONDecoder(object_pairs_hook=_each_key_once)


def _why(error: RecursionError | ValueError) -> str:
    """Why JSON that is well formed cannot be read."""
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply"
    return f"there is a number with more than {sys.get_int_max_str_digits():,} digits; write it as a text, in quotes"


def _is_json(raw: bytes, encoding: str) -> bool:
    try:
        json.loads(raw.decode(encoding))
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_long_object(raw: bytes, name: str, encoding: str) -> None:
    """Raises DataError, with advice, if there is a whole object at the beginning that has several lines."""
    text = raw.decode(encoding, "replace")
    begin = _after_space(text, 0)
    try:
        value, stop = _ANY.raw_decode(text, begin)
    except (ValueError, RecursionError):
        return
    first, last = _line_at(text, begin), _line_at(text, stop)
    if first == last:
        return
    if text[stop:].strip():
        raise DataError(
            f"{name}: the object that begins in line {first} ends in line {last}; expected one object per line, or a "
            f"list of objects: `jq -c . {name} > rows.jsonl` writes each in one line"
        )
    lists = [key for key, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]
    hint = f"If its rows are in a list, name it: `field: {printable('|'.join(lists))}`. " if lists else ""
    raise DataError(
        f"{name} is one object over several lines; expected one object per line, or a list of objects. {hint}If it is "
        "a row itself, write it in one line, or put [ before it and ] behind it"
    )


def _members(text: str) -> Iterator[tuple[str, int]]:
    """Keys of the object that a text is, and where their values begin."""
    at = _after_space(text, 0)
    while text[at] != "}":
        key, at = _ANY.raw_decode(text, _after_space(text, at + 1))
        begin = _after_space(text, _after_space(text, at) + 1)
        yield key, begin
        at = _after_space(text, _ANY.raw_decode(text, begin)[1])


def _malformed(place: Place, error: json.JSONDecodeError) -> str:
    before, after = error.doc[max(error.pos - 30, 0) : error.pos], error.doc[error.pos : error.pos + 30]
    near = printable((before + " >>> " + after).replace("\n", " ").strip())
    return f"{place}, column {error.colno}: not valid JSON: {error.msg}, at >>> in: {near}"


def _after_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()


def _line_at(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return {list: "a list", dict: "an object", str: "a string"}[type(value)] + ("" if value else " that is empty")
