"""Rows that become samples in two stages when asked for, with errors that name the file and the line."""

import copy
import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from torchtune.data._stream import Order, Position, Streamed
from torchtune.datasets._columns import ROW_ERRORS, Columns, explain
from torchtune.datasets._prepare import Preparation, fingerprint_of, kept, tokenised
from torchtune.datasets._row_filter import filter_of_stream, filter_rows
from torchtune.datasets._row_stream import DEFAULT_BUFFER, Head, RowStream
from torchtune.datasets._rows import Row, Rows
from torchtune.datasets._source import load_rows, open_units
from torchtune.datasets._token_table import TokenTable
from torchtune.errors import ConfigError, DataError
from torchtune.utils._logging import log_rank_zero

_log = logging.getLogger(__name__)

_KINDS_SHOWN = 5
_ERRORS_COUNTED = 100
_LOOKED_AT = 100  # rows of a stream, before training

Sample = dict[str, Any]


class RowDataset(Dataset, ABC):
    """What the datasets of rows have in common. A subclass says how a row is read and how it is then encoded.

    Rows of local files are all read once when the dataset is made, so that a row that cannot be used is found before
    training and not in its middle; of a dataset from the Hub only the first one is, of a stream the first hundred are.

    Args:
        source: ``json``, ``csv``, ``parquet`` or ``text`` with ``data_files=...``; a path, pattern, folder or URL of
            such files; or a Hub dataset
        filter_fn: which rows to keep: row to bool
        filter_kwargs: arguments of ``datasets.Dataset.filter``: ``fn_kwargs``, ``with_indices``, ``input_columns``
        streaming: read the rows while training, and do not index them before; then there are no samples by number,
            but ``samples``
        shuffle_buffer: rows of a stream that are shuffled together; None: 10,000
        load_dataset_kwargs: ``split`` ("train" when absent), ``data_files`` and whatever `datasets.load_dataset` takes

    Raises:
        DataError: the data or a row cannot be used; names the file, the line and the column
        ConfigError: an argument is wrong
    """

    packed = False

    def __init__(
        self,
        source: str,
        filter_fn: Callable | None = None,
        filter_kwargs: dict[str, Any] | None = None,
        *,
        streaming: bool = False,
        shuffle_buffer: int | None = None,
        **load_dataset_kwargs: Any,
    ) -> None:
        self.streaming, self._columns = streaming, Columns()
        if streaming:
            kept = filter_of_stream(filter_fn, filter_kwargs, self._columns)
            self._rows = RowStream(open_units(source, **load_dataset_kwargs), kept, _buffer(shuffle_buffer))
            self.head(_LOOKED_AT)._check_contents()
        elif shuffle_buffer is not None:
            raise ConfigError("shuffle_buffer is for streaming: True; otherwise all rows are shuffled together")
        else:
            self._rows = filter_rows(load_rows(source, **load_dataset_kwargs), filter_fn, filter_kwargs, self._columns)
            self._check_contents()

    @abstractmethod
    def read(self, row: Row) -> Any:
        """What a row says, before tokenisation, for example messages."""

    @abstractmethod
    def encode(self, content: Any) -> Sample:
        """The sample of what :meth:`read` gave."""

    @property
    def column_map(self) -> Mapping[str, str]:
        """The columns that :meth:`read` looks for, for messages."""
        return {}

    @property
    def unused_columns(self) -> list[str]:
        """Columns of the rows that were looked at when this was made, in the order of the first one, which neither
        :meth:`read` nor ``filter_fn`` asked for.
        """
        return self._columns.unused

    def warn_of_unused(self, names: Iterable[str], advice: str) -> None:
        """Warn of those among these columns that hold something in some row and are not used."""
        for name in (name for name in self.unused_columns if name in names):
            if count := self._columns.filled(name):
                found = f"{count:,} row(s) have something in the column {name!r}, which is not used"
                log_rank_zero(_log, f"Data: {self._columns.first}: {found}: {advice}", logging.WARNING)

    @property
    def cut_at(self) -> int | None:
        """Tokens at which :meth:`encode` cuts."""
        return None

    def uncut(self) -> "RowDataset":
        """The same rows, encoded at any length."""
        return copy.copy(self)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        content = self.content(index)
        try:
            return self.encode(content)
        except DataError as error:
            raise DataError(f"{self._rows.where(index)}: {error}") from error

    def fingerprint(self) -> str:
        """Equal for the same rows in the same order, encoded alike as far as the first sample shows."""
        first = (self.head(1) if self.streaming else self)[0]
        numbers = [np.asarray(values, dtype=np.int64).tobytes() for values in _lists(first.values())]
        return hashlib.sha256(self._rows.fingerprint().encode() + b"".join(numbers)).hexdigest()

    def __iter__(self) -> Iterator[Sample]:
        if self.streaming:
            return (found.make() for found in self.samples(Order((), shuffle=False)))
        return (self[index] for index in range(len(self)))

    def samples(self, order: Order, at: Position | None = None) -> Iterator[Streamed]:
        """The samples of a stream behind a position, in an order."""
        for placed, position in self._rows.ordered(order, at):
            yield Streamed(partial(self._over(Head([placed])).__getitem__, 0), position)

    def head(self, count: int) -> "RowDataset":
        """The first samples of a stream, by number.

        Raises:
            DataError: there is none, or the data cannot be read
        """
        return self._over(self._rows.head(count))

    def where(self, index: int) -> str:
        """File and line of a sample, for messages."""
        return self._rows.where(index)

    def check(self, indices: Iterable[int]) -> None:
        """Raises DataError, which counts and names the samples, unless all of these can be made."""
        _refuse_faults(self.__getitem__, self.where, list(indices))

    def content(self, index: int) -> Any:
        """What :meth:`read` gives for a row.

        Raises:
            DataError: the row cannot be read; names the file and the line.
        """
        return self._content(index, self._rows[index])

    def _over(self, rows: Rows) -> "RowDataset":
        """The same dataset of other rows, which have numbers."""
        other = copy.copy(self)
        other._rows, other.streaming = rows, False
        return other

    def _content(self, index: int, row: Row) -> Any:
        try:
            return self.read(row)
        except ConfigError:
            raise  # an argument of the transform is wrong, and no row
        except ROW_ERRORS as error:
            said = explain(row, error, self.column_map, is_only=len(self._rows) == 1)
            raise DataError(f"{self._rows.where(index)}: {said}") from error

    def _check_contents(self) -> None:
        looked_at = range(len(self)) if self._rows.is_local else range(1)
        _refuse_faults(self._look_at, self.where, looked_at)
        self._columns.first = self.where(0)
        self._columns.check(self.column_map)
        if unused := self.unused_columns:
            log_rank_zero(_log, f"{self._columns.first}: columns that are not used: {', '.join(unused)}")

    def _look_at(self, index: int) -> None:
        row = self._rows[index]
        self._columns.count(row)
        self._content(index, self._columns.watched(row))


class TokenRowDataset(RowDataset):
    """Rows whose samples have ``tokens`` and ``labels``, tokenised when asked for, or all at once by ``prepare``."""

    _table: TokenTable | None = None

    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index) if self._table is None else self._table[index]

    def prepare(self, how: Preparation) -> None:
        """Tokenise all samples now; those with more than ``tokens``, ``labels`` and ``mask`` stay as they are."""
        if self._table is None:
            self._table = kept(self, how)
        if self._table is None and super().__getitem__(0).keys() <= {"tokens", "labels", "mask"}:
            self._table = tokenised(self, how)
        if self._table is not None and how.is_main:
            self._say_what_is_cut(self._table)

    def _say_what_is_cut(self, table: TokenTable) -> None:
        limit = self.cut_at
        if limit is not None and (count := int((table.lengths >= limit).sum())):
            _log.info("%d of %d samples fill max_seq_len, %d tokens; longer ones are cut", count, len(table), limit)

    def uncut(self) -> "TokenRowDataset":
        free = super().uncut()
        free._table = None
        return free

    def fingerprint(self) -> str:
        """Equal for the same samples in the same order; of those that are not prepared the first must do."""
        return super().fingerprint() if self._table is None else self._table.fingerprint()

    @property
    def table(self) -> TokenTable | None:
        """All samples, once they are prepared."""
        return self._table

    def tokens_fingerprint(self) -> str | None:
        """What the tokens depend on; None where that cannot be told."""
        parts = [value for name, value in sorted(vars(self).items()) if name not in ("_rows", "_columns", "_table")]
        return fingerprint_of(self._rows.fingerprint(), type(self), *parts)


def _refuse_faults(read: Callable[[int], Any], where: Callable[[int], str], indices: Sequence[int]) -> None:
    """Raises DataError, with each kind of fault once, when some of these rows cannot be read."""
    kinds: dict[str, list[DataError]] = {}
    count = 0
    for index in indices:
        try:
            read(index)
        except DataError as error:
            kinds.setdefault(str(error).removeprefix(where(index)), []).append(error)
            count += 1
            if count == _ERRORS_COUNTED:
                break
    if kinds:
        at_least = "at least " if count == _ERRORS_COUNTED else ""
        shown = list(kinds.values())[:_KINDS_SHOWN]
        lines = [
            f"in {at_least}{len(same)} of {len(indices)} rows, first " * (len(same) > 1) + str(same[0])
            for same in shown
        ]
        if more := count - sum(map(len, shown)):
            lines.append(f"... and {at_least}{more} more rows")
        raise DataError("\n".join(lines)) from shown[0][0]


def without_limit(transform: Any) -> Any:
    """A copy of a tokenizer that cuts nothing; another transform as it is."""
    if getattr(transform, "max_seq_len", None) is None:
        return transform
    free = copy.copy(transform)
    free.max_seq_len = None
    return free


def _buffer(rows: int | None) -> int:
    if rows is not None and rows < 1:
        raise ConfigError(f"shuffle_buffer is {rows}; it must be at least 1")
    return rows or DEFAULT_BUFFER


def _lists(values: Iterable[Any]) -> list[list[int]]:
    return [value for value in values if isinstance(value, list)]
