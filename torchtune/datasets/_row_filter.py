"""Which rows count: a function of the user's, with the arguments that `datasets` would give it."""

import inspect
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from torchtune.datasets._columns import Columns, explain
from torchtune.datasets._row_stream import RowFilter
from torchtune.datasets._rows import Row, Rows
from torchtune.errors import ConfigError, DataError, TuneError

_log = logging.getLogger(__name__)


def filter_rows(rows: Rows, filter_fn: Callable | None, filter_kwargs: dict[str, Any] | None, columns: Columns) -> Rows:
    """The rows that ``filter_fn`` keeps.

    Args:
        columns: is told which ones ``filter_fn`` asks for

    Raises:
        ConfigError: an argument is wrong
        DataError: no row is left, or ``filter_fn`` fails; names the row
    """
    keeps = _predicate(filter_fn, filter_kwargs, columns)
    if keeps is None:
        return rows
    kept = np.array([i for i in range(len(rows)) if keeps(rows[i], i, partial(rows.where, i))], dtype=np.int64)
    if not len(kept):
        raise DataError(f"filter_fn keeps none of the {len(rows)} rows")
    _log.info("filter_fn keeps %d of %d rows", len(kept), len(rows))
    return rows.select(kept)


def filter_of_stream(
    filter_fn: Callable | None, filter_kwargs: dict[str, Any] | None, columns: Columns
) -> RowFilter | None:
    """Which rows of a stream ``filter_fn`` keeps; None where there is none.

    Raises:
        ConfigError: an argument is wrong, or asks for the number of a row
    """
    keeps = _predicate(filter_fn, filter_kwargs, columns)
    if keeps is not None and (filter_kwargs or {}).get("with_indices"):
        raise ConfigError("filter_kwargs.with_indices: the rows of a stream have no numbers; leave it out")
    if keeps is None:
        return None
    identity = f"{_name_of(filter_fn)} {_source_of(filter_fn)} {filter_kwargs}"
    return RowFilter(lambda found: keeps(found.row, -1, lambda: found.where), identity)


def _predicate(
    filter_fn: Callable | None, options: dict[str, Any] | None, seen: Columns
) -> Callable[[Row, int, Callable[[], str]], bool] | None:
    """Whether a row is kept, of the row, its number, and what tells its file and line."""
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

    def keeps(row: Row, index: int, where: Callable[[], str]) -> bool:
        watched = seen.watched(row)
        try:
            values = [watched] if columns is None else [watched[column] for column in columns]
            return filter_fn(*values, *([index] if options.get("with_indices") else []), **extra)
        except TuneError:
            raise
        except Exception as error:
            found = f"{type(error).__name__}: {explain(row, error, {})}"
            raise DataError(f"{where()}: filter_fn {_name_of(filter_fn)} fails: {found}") from error

    return keeps


def _source_of(function: Callable) -> str:
    function = function.func if isinstance(function, partial) else function
    try:
        return inspect.getsource(function if hasattr(function, "__qualname__") else type(function))
    except (OSError, TypeError):  # no file, or built in
        return ""


def _name_of(function: Callable) -> str:
    """A name that is the same in another process, which an object's own is not."""
    if isinstance(function, partial):
        return f"{_name_of(function.func)} with {function.args} {function.keywords}"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
