"""From ``source``, ``data_files`` and ``split`` to rows: common files are read here, the rest by `datasets`."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from torchtune.datasets import _files
from torchtune.datasets._csv import Csv
from torchtune.datasets._hub import is_saved, load_from_hub, shards_of
from torchtune.datasets._json import JsonLines, is_one_list, read_json
from torchtune.datasets._parquet import ParquetRows
from torchtune.datasets._records import UTF8, Format, IndexedFile, check_encoding
from torchtune.datasets._row_stream import ParquetUnit, RecordUnit, Unit
from torchtune.datasets._rows import LocalRows, Part, Rows
from torchtune.datasets._signatures import LOOKED_AT, refuse_other_forms
from torchtune.datasets._slices import parse_split, select_rows
from torchtune.datasets._text import Text
from torchtune.errors import ConfigError, DataError
from torchtune.utils._logging import log_rank_zero

_log = logging.getLogger(__name__)

_DEFAULT_SPLIT = "train"
_OPTIONS = {
    "json": {"encoding", "field"},
    "csv": {"delimiter", "encoding", "sep"},
    "parquet": set(),
    "text": {"encoding", "sample_by"},
}
_READ_BY_DATASETS = {".zst", ".zip", ".lz4", ".7z", ".tar"}  # archives, and what Python itself does not unpack


class _Foreign(NamedTuple):
    """Arguments for `datasets.load_dataset`."""

    source: str
    split: Any
    kwargs: dict[str, Any]


class _Local(NamedTuple):
    """Files that are read here: their kind, what is in each split, and the options of that kind."""

    kind: str
    splits: dict[str, list[str]]
    options: dict[str, Any]

    @property
    def encoding(self) -> str:
        return self.options.get("encoding", UTF8)


def load_rows(source: str, split: Any = _DEFAULT_SPLIT, **load_dataset_kwargs: Any) -> Rows:
    """The rows of a dataset.

    Args:
        source: ``json``, ``csv``, ``parquet`` or ``text`` with ``data_files``; a path, pattern, folder or URL of such
            files; or a dataset on the Hub
        split: as in `datasets`, also ``train[:95%]`` or ``train[10:20]``. Local files are ``train`` unless
            ``data_files`` maps split names to files, or the names of a folder's files have such words in them. None is
            ``train``
        load_dataset_kwargs: ``data_files`` (name, pattern, folder, URL or list), ``field`` for JSON, ``delimiter`` for
            CSV, ``sample_by`` for text, ``encoding`` for all of these; with any other argument of
            `datasets.load_dataset` that function reads the data, and a line of the log says so

    Raises:
        DataError: the data is not there or malformed; the message names the file and the line
        ConfigError: an argument is missing or unknown
    """
    split = _DEFAULT_SPLIT if split is None else split
    found = _request(source, split, load_dataset_kwargs)
    if isinstance(found, _Foreign):
        return load_from_hub(*found)
    wanted = list(found.splits) if split == "all" else [term.name for term in parse_split(split)]
    parts = {
        name: [_read(file, found) for file in files] if name in wanted else [] for name, files in found.splits.items()
    }
    chosen, names = select_rows(split, {name: sum(map(len, found)) for name, found in parts.items()})
    return LocalRows([part for name in names for part in parts[name]]).select(chosen)


def open_units(source: str, split: Any = _DEFAULT_SPLIT, **load_dataset_kwargs: Any) -> list[Unit]:
    """What a stream of the rows of a dataset is read from, in its order; the arguments are those of ``load_rows``.

    Raises:
        DataError: the data is not there
        ConfigError: an argument is missing or unknown, or asks for what only a whole dataset can give
    """
    split = _DEFAULT_SPLIT if split is None else split
    found = _request(source, split, load_dataset_kwargs)
    if isinstance(found, _Foreign):
        return shards_of(*found)
    if split not in found.splits:
        raise ConfigError(
            f"split {split!r}: with streaming: True a split is read whole, and there is {', '.join(found.splits)}"
        )
    return [_unit(file, found) for file in found.splits[split]]


def _request(source: str, split: Any, kwargs: Mapping[str, Any]) -> "_Local | _Foreign":
    if not isinstance(source, str) or not source.strip():
        raise ConfigError(f"dataset.source must be a name or a path, found {source!r}")
    source = os.path.expanduser(source)
    options = {key: value for key, value in kwargs.items() if value is not None}
    if options.pop("trust_remote_code", False):
        log_rank_zero(_log, "dataset.trust_remote_code has no effect: no code that comes with a dataset is run")
    files = options.pop("data_files", None)
    kind = source if source in _files.KINDS else None
    is_place = kind is None and _is_place(source)
    if files is not None and (is_place or is_saved(source)):
        raise ConfigError(
            f"dataset.source is {source!r}, and data_files names other files; give one of the two (on the command "
            "line ~dataset.data_files takes the other out)"
        )
    if is_place:
        kind, files = _kind_at(source), source
    if kind is not None and files is None and "data_dir" not in options:
        raise ConfigError(f"dataset.source is {source!r}, so dataset.data_files must name the file(s)")
    if kind is not None and files is not None:
        _check_options(options, kind)
        if (reason := _reason_for_datasets(kind, split, files, options)) is None:
            return _Local(kind, _splits(files, kind), _own_options(options))
        log_rank_zero(
            _log,
            f"the `datasets` package reads the {kind} files, {reason}: what it makes of numbers and empty cells may "
            "differ, and rows are checked when they are used",
        )
    return _Foreign(kind or source, split, options if files is None else {**options, "data_files": expand_home(files)})


def _is_place(source: str) -> bool:
    """Whether a source is a file, a pattern, a folder or a URL of files, and no dataset of the Hub or copy of one."""
    if os.path.isdir(source):
        has_card = os.path.exists(os.path.join(source, "README.md"))
        return not (has_card or is_saved(source) or glob.glob(f"{glob.escape(source)}/*.arrow"))
    is_path = source.startswith(("/", "./", "../")) or os.path.isfile(source) or _files.is_pattern(source)
    return is_path or _files.is_url(source) or _files.kind_of(source) is not None


def _kind_at(place: str) -> str:
    """The kind of the files at a place."""
    names = [place] if _files.kind_of(place) else _files.find_files(place)
    data = [name for name in names if _files.suffix_of(name) not in _files.NOTES]
    if any(_files.kind_of(name) != "text" for name in data):
        names = data
    counts = Counter(_files.kind_of(name) or f"{PurePath(name).suffix or 'no suffix'}, unknown" for name in names)
    if len(counts) > 1 or not counts.keys() <= _files.KINDS.keys():
        found = "; ".join(f"{count} x {kind}" for kind, count in counts.items())
        raise DataError(
            f"the files at {place!r} are not of one kind that is known: {found}. Name them by kind: source: json "
            f"(or {', '.join(kind for kind in _files.KINDS if kind != 'json')}), data_files: ..."
        )
    return next(iter(counts))


def _reason_for_datasets(kind: str, split: Any, files: Any, options: Mapping[str, Any]) -> str | None:
    """Why `datasets` has to read local files; None where they are read here."""
    if others := sorted(options.keys() - _OPTIONS[kind]):
        return f"because of the argument {', '.join(others)}"
    if not isinstance(split, str):
        return f"because split is {split!r}"
    groups = files.values() if isinstance(files, Mapping) else [files]
    names = [name for group in groups for name in _files.listed(group)]
    packed = [name for name in names if PurePath(name).suffix.lower() in _READ_BY_DATASETS]
    return f"because it unpacks {packed[0]}" if packed else None


def _check_options(options: Mapping[str, Any], kind: str) -> None:
    """Refuses what is for files of another kind alone."""
    for name in options:
        kinds = [other for other, known in _OPTIONS.items() if name in known]
        if kinds and kind not in kinds:
            raise ConfigError(f"dataset.{name} is for {', '.join(kinds)} files, and these are {kind}; leave it out")


def _own_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the readers here take."""
    found = {"delimiter" if key == "sep" else key: value for key, value in options.items()}
    if "encoding" in found:
        found["encoding"] = check_encoding(found["encoding"])
    return found


def _splits(files: Any, kind: str) -> dict[str, list[str]]:
    if isinstance(files, Mapping):
        return {split: _files.find_files(each, kind) for split, each in files.items()}
    found = _files.find_files(files, kind)
    is_folder = isinstance(files, str) and (os.path.isdir(files) or files.endswith("/"))
    return _files.by_split(found, files) if is_folder else {"train": found}


def _read(name: str, of: _Local) -> Part:
    path = _files.local_copy(name)
    if of.kind == "parquet":
        return ParquetRows(path, name)
    with path.open("rb") as file:
        refuse_other_forms(name, of.kind, file.read(LOOKED_AT), of.encoding)
    return read_json(path, name, **of.options) if of.kind == "json" else IndexedFile(path, _format(name, of))


def _unit(name: str, of: _Local) -> Unit:
    if of.kind == "parquet":
        return ParquetUnit(name)
    with _files.open_file(name) as file:
        refuse_other_forms(name, of.kind, file.peek(LOOKED_AT), of.encoding)
        if of.kind == "json" and ("field" in of.options or is_one_list(file, name, of.encoding)):
            raise DataError(f"{name} is one JSON value; with streaming: True each line must be an object by itself")
    return RecordUnit(name, _format(name, of))


def _format(name: str, of: _Local) -> Format:
    if of.kind == "csv":
        return Csv(name, **({"delimiter": "\t"} if _files.suffix_of(name) == ".tsv" else {}) | of.options)
    return (Text if of.kind == "text" else JsonLines)(name, **of.options)


def expand_home(data_files: Any) -> Any:
    """``~`` resolved in every path of a ``data_files`` argument."""
    if isinstance(data_files, Mapping):
        return {split: expand_home(files) for split, files in data_files.items()}
    if isinstance(data_files, str | PurePath):
        return os.path.expanduser(data_files)
    return [expand_home(file) for file in data_files]
