"""Parquet files: a row group is read when one of its rows is asked for, so that memory stays flat."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from torchtune.datasets._rows import Row
from torchtune.errors import DataError

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

_GROUPS_KEPT = 4  # the last row groups that were read, decoded
_ROWS_AT_ONCE = 1024


class ParquetRows:
    """The rows of a file by number.

    Raises:
        DataError: the file is not Parquet, damaged, has no rows, or two columns of one name
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._ends = _ends_of_groups(_open(path, name), name)
        self._file: ParquetFile | None = None
        self._groups: dict[int, Table] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def row(self, index: int) -> Row:
        number = int(np.searchsorted(self._ends, index, side="right"))
        group = self._group(number)
        with _errors_of(self._name):
            return group.slice(index - int(self._ends[number]) + len(group), 1).to_pylist()[0]

    def where(self, index: int) -> str:
        return f"{self._name}, row {index + 1}"

    def _group(self, number: int) -> "Table":
        if number not in self._groups:
            self._file = self._file or _open(self._path, self._name)
            if len(self._groups) == _GROUPS_KEPT:
                del self._groups[next(iter(self._groups))]
            with _errors_of(self._name):  # no threads: a process that was forked has none of them
                self._groups[number] = self._file.read_row_group(number, use_threads=False)
        return self._groups[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_groups": {}}


def parquet_rows(file: BinaryIO, name: str, start: int = 0) -> Iterator[Row]:
    """The rows of an open file in their order, from number ``start`` on.

    Raises:
        DataError: the file is not Parquet, damaged, has no rows, or two columns of one name
    """
    found = _open(file, name)
    ends = _ends_of_groups(found, name)
    first = int(np.searchsorted(ends, start, side="right"))
    skip = start - (int(ends[first - 1]) if first else 0)
    with _errors_of(name):
        for batch in found.iter_batches(_ROWS_AT_ONCE, row_groups=range(first, len(ends)), use_threads=False):
            yield from batch.slice(min(skip, len(batch))).to_pylist()
            skip -= min(skip, len(batch))


def _open(file: Path | BinaryIO, name: str) -> "ParquetFile":
    from pyarrow.parquet import ParquetFile

    with _errors_of(name):
        found = ParquetFile(file, memory_map=isinstance(file, Path), pre_buffer=False)
        columns = Counter(found.schema_arrow.names)
    if twice := [column for column, count in columns.items() if count > 1]:
        raise DataError(f"{name}: {len(twice)} column name(s) stand twice, among them {twice[0]!r}")
    return found


def _ends_of_groups(file: "ParquetFile", name: str) -> np.ndarray:
    """How many rows there are up to the end of each row group."""
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    if min(sizes, default=0) < 0:
        raise DataError(f"{name} is damaged: it says that a part of it has {min(sizes)} rows")
    if not sum(sizes):
        raise DataError(f"{name} holds no rows")
    return np.cumsum(sizes)


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, ValueError, IndexError) as error:  # the last two: damaged names and counts
        raise DataError(f"{name} is no Parquet file, or is damaged: {str(error).splitlines()[0][:300]}") from error
