"""From ``source``, ``data_files`` and ``split`` to rows: local JSON and CSV read here, the rest by `datasets`."""

import difflib
import glob
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torchtune.datasets._csv import read_csv
from torchtune.datasets._hub import expand_home, load_from_hub
from torchtune.datasets._json import read_json
from torchtune.datasets._rows import LocalRows, Part, Rows
from torchtune.datasets._slices import parse_split, select_rows
from torchtune.errors import ConfigError, DataError

_FORMATS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_OWN_OPTIONS = {"json": {"field"}, "csv": {"delimiter", "sep"}}
_PACKED_SUFFIXES = {".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4", ".7z", ".tar"}


def load_rows(source: str, split: Any = "train", **load_dataset_kwargs: Any) -> Rows:
    """The rows of a dataset.

    Args:
        source: ``json``, ``csv`` or ``parquet`` with ``data_files``; a path to such a file; or a dataset on the Hub
        split: as in `datasets`, also ``train[:95%]`` or ``train[10:20]``; local files are ``train`` unless
            ``data_files`` maps split names to files
        load_dataset_kwargs: ``data_files`` (path, glob pattern or list), ``field`` for JSON, ``delimiter`` for CSV;
            with any other argument of `datasets.load_dataset` that function reads the data

    Raises:
        DataError: the data is not there or malformed; the message names the file and the line
        ConfigError: an argument is missing or unknown
    """
    if not isinstance(source, str):
        raise ConfigError(f"dataset.source must be a name or a path, found {source!r}")
    kind, kwargs = _kind_and_files(source, load_dataset_kwargs)
    if not _read_here(kind, split, kwargs):
        return load_from_hub(kind, split, kwargs)
    files = kwargs["data_files"]
    by_split = files if isinstance(files, Mapping) else {"train": files}
    options = {"delimiter" if key == "sep" else key: value for key, value in kwargs.items() if key != "data_files"}
    return _load_local(kind, split, {name: _find(paths) for name, paths in by_split.items()}, options)


class _Request(NamedTuple):
    kind: str
    kwargs: dict[str, Any]


def _kind_and_files(source: str, kwargs: Mapping[str, Any]) -> _Request:
    """A path given as ``source`` becomes its format and ``data_files``."""
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    if "data_files" in kwargs:
        kwargs["data_files"] = expand_home(kwargs["data_files"])
    suffix = Path(source).suffix.lower()
    if suffix not in _FORMATS:
        if source in ("json", "csv", "parquet") and not kwargs.keys() & {"data_files", "data_dir"}:
            raise ConfigError(f"dataset.source is {source!r}, so dataset.data_files must name the file(s)")
        return _Request(os.path.expanduser(source), kwargs)
    if "data_files" in kwargs:
        raise ConfigError(f"dataset.source is the file {source!r}, and data_files names others; give one of the two")
    path = os.path.expanduser(source)
    if "://" not in path and not os.path.exists(path):
        raise DataError(_not_found(path))
    if suffix == ".tsv":
        kwargs.setdefault("delimiter", "\t")
    return _Request(_FORMATS[suffix], {**kwargs, "data_files": path})


def _read_here(kind: str, split: Any, kwargs: Mapping[str, Any]) -> bool:
    files = kwargs.get("data_files")
    if kind not in _OWN_OPTIONS or files is None or not isinstance(split, str):
        return False
    paths = [path for group in (files.values() if isinstance(files, Mapping) else [files]) for path in _listed(group)]
    plain = all("://" not in path and Path(path).suffix.lower() not in _PACKED_SUFFIXES for path in paths)
    return plain and kwargs.keys() <= _OWN_OPTIONS[kind] | {"data_files"}


def _load_local(kind: str, split: str, files: Mapping[str, list[Path]], options: dict[str, Any]) -> Rows:
    read = partial({"json": read_json, "csv": read_csv}[kind], **options)
    wanted = list(files) if split == "all" else [term.name for term in parse_split(split)]
    parts: dict[str, list[Part]] = {name: [read(path) for path in files[name]] for name in files if name in wanted}
    lengths = {name: sum(map(len, parts.get(name, []))) for name in files}
    chosen, names = select_rows(split, lengths)
    return LocalRows([part for name in names for part in parts[name]]).select(chosen)


def _listed(paths: str | Iterable[str]) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths)


def _find(patterns: str | Iterable[str]) -> list[Path]:
    found = []
    for pattern in _listed(patterns):
        matches = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))
        matches = [match for match in matches if os.path.isfile(match)]
        if not matches:
            raise DataError(_not_found(pattern))
        found += map(Path, matches)
    if not found:
        raise ConfigError("dataset.data_files is an empty list; name at least one file")
    return found


def _not_found(path: str) -> str:
    folder = Path(path).parent
    if not folder.is_dir():
        return f"data file {path!r} does not exist: there is no folder {str(folder.absolute())!r}"
    near = difflib.get_close_matches(Path(path).name, [file.name for file in folder.iterdir()], n=3)
    return f"no data file {path!r} in {str(folder.absolute())!r}" + (f"; there is {', '.join(near)}" if near else "")
