"""Which rows count: a function of the user's, with the arguments that `datasets` would give it."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from torchtune.datasets._rows import Row, Rows
from torchtune.errors import ConfigError, DataError

_log = logging.getLogger(__name__)


def filter_rows(rows: Rows, filter_fn: Callable | None, filter_kwargs: dict[str, Any] | None) -> Rows:
    """The rows that ``filter_fn`` keeps.

    Raises:
        ConfigError: an argument is wrong
        DataError: no row is left
    """
    keeps = _predicate(filter_fn, filter_kwargs)
    if keeps is None:
        return rows
    kept = np.array([index for index in range(len(rows)) if keeps(rows[index], index)], dtype=np.int64)
    if not len(kept):
        raise DataError(f"filter_fn keeps none of the {len(rows)} rows")
    _log.info("filter_fn keeps %d of %d rows", len(kept), len(rows))
    return rows.select(kept)


def filter_of_stream(filter_fn: Callable | None, filter_kwargs: dict[str, Any] | None) -> Callable[[Row], bool] | None:
    """Whether ``filter_fn`` keeps a row of a stream; None where there is none.

    Raises:
        ConfigError: an argument is wrong, or asks for the number of a row
    """
    keeps = _predicate(filter_fn, filter_kwargs)
    if keeps is not None and (filter_kwargs or {}).get("with_indices"):
        raise ConfigError("filter_kwargs.with_indices: the rows of a stream have no numbers; leave it out")
    return None if keeps is None else lambda row: keeps(row, -1)


def _predicate(filter_fn: Callable | None, options: dict[str, Any] | None) -> Callable[[Row, int], bool] | None:
    options = options or {}
    if filter_fn is None and options:
        raise ConfigError("filter_kwargs is given and filter_fn is not")
    if filter_fn is None:
        return None
    if not callable(filter_fn):
        raise ConfigError(f"filter_fn must be a function of a row, found {filter_fn!r}")
    known = {"fn_kwargs", "with_indices", "input_columns"}
    if options.keys() - known:
        raise ConfigError(f"filter_kwargs has {sorted(options.keys() - known)}; it can have {sorted(known)}")
    extra, columns = options.get("fn_kwargs") or {}, options.get("input_columns")
    columns = [columns] if isinstance(columns, str) else columns

    def keeps(row: Row, index: int) -> bool:
        values = [row] if columns is None else [row[column] for column in columns]
        return filter_fn(*values, *([index] if options.get("with_indices") else []), **extra)

    return keeps
