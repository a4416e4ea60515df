"""Datasets from the Hugging Face Hub, and whatever else the `datasets` package reads; nothing else imports it."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from torchtune.datasets._row_stream import PlacedRow
from torchtune.datasets._rows import Row
from torchtune.datasets._slices import select_rows
from torchtune.errors import ConfigError, DataError, TuneError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


class HubRows:
    """Rows of a table of the `datasets` package, which stay on the disk."""

    is_local = False

    def __init__(self, table: "Dataset", name: str, order: np.ndarray | None = None) -> None:
        self._table, self._name = table, name
        self._order = np.arange(len(table)) if order is None else order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Row:
        return self._table[int(self._order[index])]

    def where(self, index: int) -> str:
        return f"{self._name}, row {int(self._order[index]) + 1}"

    def select(self, indices: np.ndarray) -> "HubRows":
        return HubRows(self._table, self._name, self._order[indices])

    def fingerprint(self) -> str:
        # The package's own hash of the data: https://huggingface.co/docs/datasets/about_cache#fingerprint
        order = hashlib.sha256(self._order.astype(np.int64).tobytes()).hexdigest()
        return f"{self._table._fingerprint}-{order}"


def load_from_hub(source: str, split: Any, kwargs: Mapping[str, Any]) -> HubRows:
    """The rows that `datasets.load_dataset` gives for these arguments.

    Raises:
        DataError: the dataset, a file of it or the split is not there or cannot be reached
        ConfigError: an argument that `load_dataset` does not know
    """
    table = _load(source, split, kwargs)
    if not len(table):
        raise DataError(f"dataset {source!r}, split {split!r} has no rows")
    return HubRows(table, f"{source}, split {split}")


def shards_of(source: str, split: Any, kwargs: Mapping[str, Any]) -> list["Shard"]:
    """What ``datasets.load_dataset`` with these arguments reads one after the other, without a copy on the disk.

    Raises:
        DataError, ConfigError: see :func:`load_from_hub`
    """
    stream = _load(source, split, {**kwargs, "streaming": True})
    return [Shard(stream, number, f"{source}, split {split}") for number in range(stream.num_shards)]


class Shard:
    """One of the parts that a streamed dataset is stored in, usually a file."""

    def __init__(self, stream: "IterableDataset", number: int, name: str) -> None:
        self._stream, self._number, self._name = stream, number, name

    @property
    def identity(self) -> str:
        return f"{self._name}, {self._number} of {self._stream.num_shards}"

    def rows(self, place: list[int] | None = None) -> Iterator[PlacedRow]:
        start = place[0] if place else 0
        found = self._stream.shard(self._stream.num_shards, self._number).skip(start)
        for number, row in enumerate(found, start):
            yield PlacedRow(row, f"{self._name}, shard {self._number}, row {number + 1}", [number + 1])


def is_saved(source: str) -> bool:
    """Whether a source is a folder that ``save_to_disk`` of `datasets` wrote."""
    # https://huggingface.co/docs/datasets/process#save
    written = {"dataset_dict.json"}, {"state.json", "dataset_info.json"}
    return any(all(os.path.isfile(os.path.join(source, name)) for name in names) for names in written)


def _load(source: str, split: Any, kwargs: Mapping[str, Any]) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        load = _load_saved if is_saved(source) else load_dataset
        found = load(source, split=split, **kwargs)
    except TuneError:
        raise
    except TypeError as error:
        raise ConfigError(f"dataset {source!r}: load_dataset does not accept these arguments: {error}") from error
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(_explain(source, split, error)) from error
    if isinstance(found, Mapping | list):
        raise ConfigError(f"dataset.split is {split!r}; it must be one split, or several as in train+test")
    return found


def _load_saved(source: str, split: Any, *, streaming: bool = False, **others: Any) -> "Dataset | IterableDataset":
    """What ``save_to_disk`` wrote. A dataset that was saved without a split is ``train``, as a local file is."""
    from datasets import concatenate_datasets, load_from_disk

    if others:
        raise ConfigError(f"{source!r} is from save_to_disk and takes no {', '.join(sorted(others))}; leave it out")
    found = load_from_disk(source)
    tables = dict(found) if isinstance(found, Mapping) else {"train": found}
    chosen, names = select_rows(split, {name: len(table) for name, table in tables.items()})
    table = concatenate_datasets([tables[name] for name in names]).select(chosen)
    return table.to_iterable_dataset() if streaming else table


def _explain(source: str, split: Any, error: Exception) -> str:
    from datasets.exceptions import DatasetNotFoundError

    text = str(error).strip() or type(error).__name__
    cause = error.__cause__ or error.__context__
    if type(error).__name__ == "DatasetGenerationError" and cause is not None:
        text = f"{text} {type(cause).__name__}: {cause}"
    if "gated" in text:
        advice = f"Ask for access on https://huggingface.co/datasets/{source} and log in with `hf auth login`."
    elif isinstance(error, DatasetNotFoundError):
        advice = "Check the name; if private, log in with `hf auth login`. Own files: source: json, data_files: ..."
    elif isinstance(error, ConnectionError):
        offline = "HF_HUB_OFFLINE is set. " if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        advice = f"{offline}The Hub cannot be reached. Own files need none: source: json, data_files: ..."
    else:
        advice = "Check `source`, `split` and `data_files`."
    return f"dataset {source!r}, split {split!r}: {text[:600]} {advice}"
