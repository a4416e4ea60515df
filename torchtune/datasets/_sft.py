"""Supervised fine-tuning samples: a row becomes messages, messages become tokens and labels, when asked for."""

import difflib
import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from torchtune.data._collate import CROSS_ENTROPY_IGNORE_IDX
from torchtune.datasets._rows import Row, Rows
from torchtune.datasets._source import load_rows
from torchtune.errors import ConfigError, DataError
from torchtune.modules.transforms import Transform

_log = logging.getLogger(__name__)

# What a transform raises when a row does not have the shape it reads; anything else is not the row's fault.
_ROW_ERRORS = (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError)
_ERRORS_SHOWN = 5
_ERRORS_COUNTED = 100


class SFTTransform(Transform):
    """Row to ``tokens``, ``mask`` and ``labels``, by way of messages.

    Args:
        message_transform: row to a dict with ``messages``; None when the row has them already
        model_transform: adds ``tokens`` and ``mask`` (True: not trained on), as a tokenizer does; None stops before
    """

    def __init__(self, message_transform: Transform | None = None, model_transform: Transform | None = None) -> None:
        if message_transform is None and model_transform is None:
            raise ConfigError("SFTTransform needs a message_transform, a model_transform or both")
        self._message_transform, self._model_transform = message_transform, model_transform

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        if self._message_transform is not None:
            sample = self._message_transform(sample)
        if self._model_transform is None:
            return dict(sample)
        return with_labels(dict(self._model_transform(sample)))


def with_labels(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample and its ``labels``: the tokens where the mask is False, else -100; not shifted."""
    if "tokens" not in sample or "mask" not in sample:
        raise ConfigError(f"the model_transform must give 'tokens' and 'mask'; it gave {list(sample)}")
    tokens, mask = sample["tokens"], sample["mask"]
    if len(tokens) != len(mask):
        raise ConfigError(f"the model_transform gave {len(tokens)} tokens and a mask of {len(mask)}")
    sample["labels"] = [CROSS_ENTROPY_IGNORE_IDX if hidden else token for token, hidden in zip(tokens, mask)]
    return sample


class SFTDataset(Dataset):
    """Samples for supervised fine-tuning, tokenised when asked for.

    Rows of local files all go through ``message_transform`` once when the dataset is made, so that a row that cannot
    be used is found before training and not in its middle; of a dataset from the Hub only the first one does.

    Args:
        source: ``json``, ``csv`` or ``parquet`` with ``data_files=...``, a path to such a file, or a Hub dataset
        message_transform: row to a dict with ``messages``
        model_transform: usually the tokenizer: adds ``tokens`` and ``mask``
        filter_fn: which rows to keep: row to bool
        filter_kwargs: arguments of ``datasets.Dataset.filter``: ``fn_kwargs``, ``with_indices``, ``input_columns``
        load_dataset_kwargs: ``split`` ("train" when absent), ``data_files`` and whatever `datasets.load_dataset` takes

    Raises:
        DataError: the data or a row cannot be used; names the file, the line and the column
        ConfigError: an argument is wrong
    """

    def __init__(
        self,
        *,
        source: str,
        message_transform: Transform,
        model_transform: Transform,
        filter_fn: Callable | None = None,
        filter_kwargs: dict[str, Any] | None = None,
        **load_dataset_kwargs: Any,
    ) -> None:
        self._message_transform, self._model_transform = message_transform, model_transform
        rows = load_rows(source, **load_dataset_kwargs)
        self._rows = _filter(rows, filter_fn, filter_kwargs)
        self._check_rows(range(len(self)) if self._rows.is_local else range(1))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self._messages(index)
        try:
            return with_labels(dict(self._model_transform(sample)))
        except DataError as error:
            raise DataError(f"{self._rows.where(index)}: {error}") from error

    def fingerprint(self) -> str:
        """Equal for the same rows in the same order, transformed alike as far as the first sample shows."""
        sample = self[0]
        first = np.array([sample["tokens"], sample["labels"]], dtype=np.int64).tobytes()
        return hashlib.sha256(self._rows.fingerprint().encode() + first).hexdigest()

    def _messages(self, index: int) -> Mapping[str, Any]:
        row = self._rows[index]
        try:
            return self._message_transform(row)
        except ConfigError:
            raise  # an argument of the transform is wrong, and no row
        except _ROW_ERRORS as error:
            raise DataError(f"{self._rows.where(index)}: {_explain(row, error, self._message_transform)}") from error

    def _check_rows(self, indices: range) -> None:
        errors: list[DataError] = []
        for index in indices:
            try:
                self._messages(index)
            except DataError as error:
                errors.append(error)
                if len(errors) == _ERRORS_COUNTED:
                    break
        if errors:
            shown = "\n".join(str(error) for error in errors[:_ERRORS_SHOWN])
            more = len(errors) - _ERRORS_SHOWN
            at_least = "at least " if len(errors) == _ERRORS_COUNTED else ""
            raise DataError(shown + (f"\n... and {at_least}{more} more rows" if more > 0 else "")) from errors[0]


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


def _explain(row: Row, error: Exception, transform: Transform) -> str:
    """What is wrong with a row and, where a column is missing, which one may be meant."""
    column_map = getattr(transform, "column_map", None) or {}
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
