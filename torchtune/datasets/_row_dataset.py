"""Rows that become samples in two stages when asked for, with errors that name the file and the line."""

import difflib
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from torchtune.datasets._prepare import Preparation, fingerprint_of, kept, tokenised
from torchtune.datasets._rows import Row, Rows
from torchtune.datasets._source import load_rows
from torchtune.datasets._token_table import TokenTable
from torchtune.errors import ConfigError, DataError

_log = logging.getLogger(__name__)

# What reading a row raises when it does not have the shape that is expected; anything else is not the row's fault.
_ROW_ERRORS = (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError)
_ERRORS_SHOWN = 5
_ERRORS_COUNTED = 100

Sample = dict[str, Any]


class RowDataset(Dataset):
    """What the datasets of rows have in common. A subclass says how a row is read and how it is then encoded.

    Rows of local files are all read once when the dataset is made, so that a row that cannot be used is found before
    training and not in its middle; of a dataset from the Hub only the first one is.

    Args:
        source: ``json``, ``csv``, ``parquet`` or ``text`` with ``data_files=...``, a path to such a file or a folder of
            them, or a Hub dataset
        filter_fn: which rows to keep: row to bool
        filter_kwargs: arguments of ``datasets.Dataset.filter``: ``fn_kwargs``, ``with_indices``, ``input_columns``
        load_dataset_kwargs: ``split`` ("train" when absent), ``data_files`` and whatever `datasets.load_dataset` takes

    Raises:
        DataError: the data or a row cannot be used; names the file, the line and the column
        ConfigError: an argument is wrong
    """

    def __init__(
        self,
        source: str,
        filter_fn: Callable | None = None,
        filter_kwargs: dict[str, Any] | None = None,
        **load_dataset_kwargs: Any,
    ) -> None:
        rows = load_rows(source, **load_dataset_kwargs)
        self._rows = _filter(rows, filter_fn, filter_kwargs)
        self._check_rows(range(len(self)) if self._rows.is_local else range(1))

    def read(self, row: Row) -> Any:
        """What a row says, before tokenisation, for example messages."""
        raise NotImplementedError

    def encode(self, content: Any) -> Sample:
        """The sample of what :meth:`read` gave."""
        raise NotImplementedError

    @property
    def column_map(self) -> Mapping[str, str]:
        """The columns that :meth:`read` looks for, for messages."""
        return {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        content = self._content(index)
        try:
            return self.encode(content)
        except DataError as error:
            raise DataError(f"{self._rows.where(index)}: {error}") from error

    def fingerprint(self) -> str:
        """Equal for the same rows in the same order, encoded alike as far as the first sample shows."""
        numbers = [np.asarray(values, dtype=np.int64).tobytes() for values in _lists(self[0].values())]
        return hashlib.sha256(self._rows.fingerprint().encode() + b"".join(numbers)).hexdigest()

    def _content(self, index: int) -> Any:
        row = self._rows[index]
        try:
            return self.read(row)
        except ConfigError:
            raise  # an argument of the transform is wrong, and no row
        except _ROW_ERRORS as error:
            raise DataError(f"{self._rows.where(index)}: {_explain(row, error, self.column_map)}") from error

    def _check_rows(self, indices: range) -> None:
        errors: list[DataError] = []
        for index in indices:
            try:
                self._content(index)
            except DataError as error:
                errors.append(error)
                if len(errors) == _ERRORS_COUNTED:
                    break
        if errors:
            shown = "\n".join(str(error) for error in errors[:_ERRORS_SHOWN])
            more = len(errors) - _ERRORS_SHOWN
            at_least = "at least " if len(errors) == _ERRORS_COUNTED else ""
            raise DataError(shown + (f"\n... and {at_least}{more} more rows" if more > 0 else "")) from errors[0]


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

    @property
    def table(self) -> TokenTable | None:
        """All samples, once they are prepared."""
        return self._table

    def tokens_fingerprint(self) -> str | None:
        """What the tokens depend on; None where that cannot be told."""
        parts = [value for name, value in sorted(vars(self).items()) if name not in ("_rows", "_table")]
        return fingerprint_of(self._rows.fingerprint(), type(self).__qualname__, *parts)


def _lists(values: Iterable[Any]) -> list[list[int]]:
    return [value for value in values if isinstance(value, list)]


def _filter(rows: Rows, filter_fn: Callable | None, filter_kwargs: dict[str, Any] | None) -> Rows:
    """The rows that ``filter_fn`` keeps."""
    if filter_fn is None:
        if filter_kwargs:
            raise ConfigError("filter_kwargs is given and filter_fn is not")
        return rows
    if not callable(filter_fn):
        raise ConfigError(f"filter_fn must be a function of a row, found {filter_fn!r}")
    keeps = _predicate(filter_fn, **(filter_kwargs or {}))
    kept = np.array([index for index in range(len(rows)) if keeps(rows[index], index)], dtype=np.int64)
    if not len(kept):
        raise DataError(f"filter_fn keeps none of the {len(rows)} rows")
    _log.info("filter_fn keeps %d of %d rows", len(kept), len(rows))
    return rows.select(kept)


def _predicate(filter_fn: Callable, **options: Any) -> Callable[[Row, int], bool]:
    """``filter_fn`` with the arguments that ``datasets.Dataset.filter`` would give it for one row."""
    known = {"fn_kwargs", "with_indices", "input_columns"}
    if options.keys() - known:
        raise ConfigError(f"filter_kwargs has {sorted(options.keys() - known)}; it can have {sorted(known)}")
    extra, columns = options.get("fn_kwargs") or {}, options.get("input_columns")
    columns = [columns] if isinstance(columns, str) else columns

    def keeps(row: Row, index: int) -> bool:
        values = [row] if columns is None else [row[column] for column in columns]
        return filter_fn(*values, *([index] if options.get("with_indices") else []), **extra)

    return keeps


def _explain(row: Row, error: Exception, column_map: Mapping[str, str]) -> str:
    """What is wrong with a row and, where a column is missing, which one may be meant."""
    wanted = set(column_map.values())
    text = str(error) or type(error).__name__
    if isinstance(error, KeyError) and error.args and error.args[0] not in row:
        wanted.add(error.args[0])
        text = f"no column {error.args[0]!r}; the columns are {', '.join(map(repr, row))}"
    near = {name: difflib.get_close_matches(str(name), map(str, row), n=1) for name in sorted(wanted - row.keys())}
    hints = [f"nearest to {name!r} is {found[0]!r}" for name, found in near.items() if found]
    if near and column_map:
        hints.append(f"column_map is {dict(column_map)}")
    return "; ".join([text, *hints])
