"""Names of data files: what patterns, folders and URLs stand for, and how compressed or distant files are read."""

import bz2
import difflib
import glob
import gzip
import hashlib
import io
import logging
import lzma
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from torchtune.datasets._prepare import default_cache_dir
from torchtune.datasets._token_table import remove_abandoned
from torchtune.errors import ConfigError, DataError, MissingDependency, TuneError

_log = logging.getLogger(__name__)

NOTES = (".md", ".markdown")  # texts; beside data of another kind they only tell of it
KINDS = {
    "json": (".json", ".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
    "text": (".txt", *NOTES),
}
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_CHUNK = 1 << 20

# https://huggingface.co/docs/datasets/repository_structure#splits-and-file-names
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def is_url(name: str) -> bool:
    """Whether a file lies where a file system of fsspec finds it, as ``s3://bucket/rows.jsonl``."""
    return "://" in name


def is_pattern(name: str) -> bool:
    """Whether a name may stand for several files; ``?`` begins the query of a web address."""
    return glob.has_magic(name) and not name.startswith(("http://", "https://"))


def suffix_of(name: str) -> str:
    """The suffix that tells what is in a file, in small letters, below that of a compressed one."""
    path = PurePosixPath(name.partition("?")[0] if is_url(name) else name)
    return (path.with_suffix("") if path.suffix.lower() in _OPENERS else path).suffix.lower()


def kind_of(name: str) -> str | None:
    """The kind of a file by its suffix: ``json``, ``csv``, ``parquet`` or ``text``."""
    return next((kind for kind, suffixes in KINDS.items() if suffix_of(name) in suffixes), None)


def find_files(patterns: str | Iterable[str], kind: str | None = None) -> list[str]:
    """The files that names, patterns and folders stand for; those of one pattern or folder are sorted.

    Args:
        kind: which files of a folder count; None: those of every kind

    Raises:
        DataError: one of them is not there
        ConfigError: the list is empty
    """
    found = [name for pattern in listed(patterns) for name in _find(os.path.expanduser(pattern), kind)]
    if not found:
        raise ConfigError("dataset.data_files is an empty list; name at least one file")
    return found


def listed(patterns: str | Path | Iterable[str]) -> list[str]:
    """One name or many as a list.

    Raises:
        ConfigError: there is something else among them
    """
    found = list(patterns) if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [patterns]
    if other := [each for each in found if not isinstance(each, str | os.PathLike)]:
        raise ConfigError(f"dataset.data_files has {other[0]!r}; expected names of files")
    return [os.fspath(each) for each in found]


def by_split(files: Iterable[str], folder: str) -> dict[str, list[str]]:
    """Files of a folder by the words in their paths that name a split; all are ``train`` when none has such a word."""
    found: dict[str, list[str]] = {}
    root = folder.rpartition("://")[2].strip("/")
    for file in files:
        found.setdefault(_split_in(file.partition(root)[2]), []).append(file)
    others = found.pop("", [])
    if others and found:
        _log.warning("left out %d file(s) whose names have no word for a split, among them %r", len(others), others[0])
    return found or {"train": others}


def _split_in(path: str) -> str:
    words = set(re.split(r"[^a-z]+", path.lower()))
    return next((split for split, known in _SPLITS.items() if words.intersection(known)), "")


def local_copy(name: str) -> Path:
    """A file of this machine with the content of ``name``: that file, or a plain copy of it that is kept in the cache.

    Raises:
        DataError: it is not there or cannot be read
        MissingDependency: fsspec needs another package for this kind of address
    """
    if not is_url(name) and Path(name).suffix.lower() not in _OPENERS:
        return Path(name)
    folder = default_cache_dir() / "files"
    with errors_of(name):
        target = folder / f"{_stamp(name)}{suffix_of(name)}"
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            remove_abandoned(folder)
            hidden = folder / f".{target.name}.{uuid.uuid4().hex}"
            try:
                with open_file(name) as source, hidden.open("wb") as copy:
                    shutil.copyfileobj(source, copy, _CHUNK)
                hidden.rename(target)
            finally:
                hidden.unlink(missing_ok=True)
    return target


@contextmanager
def open_file(name: str) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed where its suffix asks for it, wherever it lies."""
    with errors_of(name), _raw(name) as raw:
        opener = _OPENERS.get(Path(name.partition("?")[0]).suffix.lower())
        with io.BufferedReader(raw, _CHUNK) if opener is None else opener(raw) as file:
            yield file


def size_of(name: str) -> int | None:
    """Bytes of a file as it is stored; None where that cannot be told."""
    with errors_of(name):
        return _info(name)["size"]


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """What goes wrong with a file, in one message that names it."""
    try:
        yield
    except TuneError:
        raise
    except ImportError as error:
        raise MissingDependency(f"{name}: {error}") from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
        text = str(error).strip() or type(error).__name__
        raise DataError(f"{name} cannot be read: {text.splitlines()[0][:300]}") from error


def _raw(name: str) -> IO[bytes]:
    if not is_url(name):
        return open(name, "rb", buffering=0)
    import fsspec

    return fsspec.open(name, "rb").open()


def _info(name: str) -> Mapping[str, Any]:
    if not is_url(name):
        status = os.stat(name)
        return {"size": status.st_size, "mtime": status.st_mtime_ns}
    from fsspec.core import url_to_fs

    system, path = url_to_fs(name)
    return system.info(path)


def _stamp(name: str) -> str:
    """Changes with a file's place, size and time."""
    name = name if is_url(name) else os.path.abspath(name)
    return hashlib.sha256(f"{name} {sorted(_info(name).items())}".encode()).hexdigest()[:32]


def _find(pattern: str, kind: str | None) -> list[str]:
    if is_url(pattern):
        return _find_by_url(pattern, kind)
    if os.path.isfile(pattern):
        return [pattern]
    inside = os.path.join(glob.escape(pattern), "**") if os.path.isdir(pattern) else pattern
    matches = [match for match in sorted(glob.glob(inside, recursive=True)) if os.path.isfile(match)]
    matches = matches if inside == pattern else _of_kind(matches, kind)
    if not matches:
        raise DataError(not_found(pattern))
    return matches


def _find_by_url(pattern: str, kind: str | None) -> list[str]:
    if not (is_pattern(pattern) or pattern.endswith("/")):
        return [pattern]
    from fsspec.core import url_to_fs

    with errors_of(pattern):
        system, path = url_to_fs(pattern)
        matches = sorted(system.glob(path) if is_pattern(pattern) else _of_kind(system.find(path), kind))
    if not matches:
        raise DataError(f"there is no data file {pattern}")
    return [system.unstrip_protocol(match) for match in matches]


def _of_kind(names: Iterable[str], kind: str | None) -> list[str]:
    return [name for name in names if (found := kind_of(name)) is not None and kind in (None, found)]


def not_found(path: str) -> str:
    """That there is no such file, and which one may be meant."""
    if os.path.isdir(path):
        suffixes = ", ".join(suffix for group in KINDS.values() for suffix in group)
        return f"the folder {path!r} has no data file ({suffixes}) in it"
    folder = Path(path).parent
    if not folder.is_dir():
        return f"data file {path!r} does not exist: there is no folder {str(folder.absolute())!r}"
    near = difflib.get_close_matches(Path(path).name, [file.name for file in folder.iterdir()], n=3)
    return f"no data file {path!r} in {str(folder.absolute())!r}" + (f"; there is {', '.join(near)}" if near else "")
