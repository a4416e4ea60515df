"""Which columns the rows of a dataset have, and which of them anything asks for."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torchtune.data._turns import names_in
from torchtune.datasets._rows import Row
from torchtune.errors import DataError

# What reading a row raises when it does not have the shape that is expected; anything else is not the row's fault.
ROW_ERRORS = (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError)


class Columns:
    """The columns of the rows that were looked at; ``first`` is the file and line of the first one."""

    def __init__(self) -> None:
        self.first = ""
        self._rows = 0
        self._filled: Counter[str] = Counter()  # column -> rows in which it is not empty; in the order of the first row
        self._asked: set[str] = set()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Columns, ()  # what was noted is no part of what a dataset, or a filter that notes here, is

    def watched(self, row: Row) -> Row:
        """The row, as one that notes which columns are asked for."""
        return _Watched(row, self._asked.add)

    def count(self, row: Row) -> None:
        """Note which columns a row has."""
        self._rows += 1
        for name, value in row.items():
            self._filled[name] += bool(value)

    @property
    def unused(self) -> list[str]:
        """Those that were not asked for, in the order of the first row."""
        return [name for name in self._filled if name not in self._asked]

    def filled(self, name: str) -> int:
        """How many rows have something in a column."""
        return self._filled[name]

    def check(self, column_map: Mapping[str, str]) -> None:
        """Refuse a column that the config names and no row has; one that has its usual name may be absent.

        Raises:
            DataError: there is one; names the nearest.
        """
        for name, column in column_map.items():
            if column not in self._filled and column != name:
                raise DataError(
                    f"{self.first}: column_map is {{{name}: {column}}}, and no row has a column {column!r} "
                    f"({self._rows:,} looked at); the columns are {names_in(self._filled)}"
                    f"{_nearest(column, self._filled)}"
                )


def explain(row: Row, error: Exception, column_map: Mapping[str, str], *, is_only: bool = False) -> str:
    """What is wrong with a row and, where a column is missing, which one may be meant.

    Args:
        is_only: there is no other row, so that this may be a JSON file with its rows below a key.
    """
    wanted = set(column_map.values())
    text = str(error) or type(error).__name__
    if isinstance(error, KeyError) and error.args and error.args[0] not in row:
        wanted.add(error.args[0])
        text = f"no column {error.args[0]!r}; the columns are {names_in(row)}"
    absent = sorted(wanted - row.keys(), key=str)
    hints = "".join(_nearest(name, row) for name in absent)
    if absent and is_only:
        hints += _lists_in(row)
    return text + hints + (f"; column_map is {dict(column_map)}" if absent and column_map else "")


def _nearest(name: Any, names: Mapping[str, Any]) -> str:
    found = difflib.get_close_matches(str(name), map(str, names), n=1)
    return f"; nearest to {name!r} is {found[0]!r}" if found else ""


def _lists_in(row: Row) -> str:
    names = [name for name, value in row.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return f"; if the file's rows are the objects in {names[0]!r}: `field: {names[0]}`" if names else ""


class _Watched(dict):
    """A row that tells which of its columns are asked for; whoever goes through it asks for all."""

    def __init__(self, row: Row, note: Callable[[str], None]) -> None:
        super().__init__(row)
        self._note = note

    def __getitem__(self, name: str) -> Any:
        self._note(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._note(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        self._note(name)
        return super().pop(name, *default)

    def setdefault(self, name: str, default: Any = None) -> Any:
        self._note(name)
        return super().setdefault(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> Any:
        return self._all().keys()

    def values(self) -> Any:
        return self._all().values()

    def items(self) -> Any:
        return self._all().items()

    def copy(self) -> Row:
        return self._all()

    def __reduce__(self) -> tuple[type, tuple[Row]]:
        return dict, (self._all(),)

    def _all(self) -> Row:
        found = dict(super().items())
        for name in found:
            self._note(name)
        return found
