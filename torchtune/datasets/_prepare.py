"""Tokenises a dataset once: by several processes, with progress, and kept on disk for the next run."""

import hashlib
import inspect
import logging
import multiprocessing
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from tqdm import tqdm

from torchtune.datasets._token_table import InFolder, InMemory, Piece, TokenTable, in_pieces, open_table
from torchtune.errors import DataError
from torchtune.utils._owner import is_users

_log = logging.getLogger(__name__)

_PIECE = 256  # samples that a process tokenises at a time
_WORTH_PROCESSES = 2_000  # samples; below, to start processes takes longer than they save
_WORTH_KEEPING = 10_000  # samples; fewer are tokenised again in about a second
_MOST_PROCESSES = 16
_SECONDS_OF_SILENCE = 30  # where there is no bar
_OWN_SOURCES = (
    "torchtune/data/**/*.py",
    "torchtune/datasets/**/*.py",
    "torchtune/modules/transforms/**/*.py",
    "torchtune/models/**/*token*.py",
    "torchtune/models/**/*dialogue*.py",
    "llama_recipes/datasets/**/*.py",
)


@dataclass(frozen=True)
class Preparation:
    """How a dataset is tokenised; the result is the same in every case.

    Args:
        workers: processes; None: one for each core when there are many samples, 0: this process alone.
        cache_dir: where tokenised data is kept; None keeps none.
        least_to_keep: datasets with fewer samples are not kept.
        is_main: show progress and say what is done.
    """

    workers: int | None = None
    cache_dir: Path | None = None
    least_to_keep: int = _WORTH_KEEPING
    is_main: bool = True


def default_cache_dir() -> Path:
    """``torchtune/data`` below ``XDG_CACHE_HOME``, or else below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchtune" / "data"


def tokenised(ds: Dataset, how: Preparation, most_tokens: int | None = None) -> TokenTable:
    """The samples of a dataset, tokenised.

    Args:
        ds: gives ``tokens`` and ``labels``; kept on disk only where ``tokens_fingerprint`` says what it depends on.
        most_tokens: stop after so many; then nothing is kept on disk.

    Raises:
        DataError: a sample cannot be tokenised, or a process was killed
    """
    if most_tokens is None and (found := kept(ds, how)) is not None:
        return found
    folder = None if most_tokens else _folder_of(ds, how)
    if folder is not None:
        try:
            return _kept_anew(ds, how, folder)
        except OSError as error:  # to train matters more than to keep
            where, why = folder.parent, error.strerror or error
            _log.warning("tokenised data cannot be kept in %s: %s; data_cache: False keeps none", where, why)
    return _filled(InMemory(), ds, how, most_tokens)


def _kept_anew(ds: Dataset, how: Preparation, folder: Path) -> TokenTable:
    started = time.perf_counter()
    folder.parent.mkdir(parents=True, exist_ok=True)
    sink = InFolder(folder, {"samples": len(ds)})
    try:
        table = _filled(sink, ds, how)
    except BaseException:
        sink.discard()
        raise
    if how.is_main:
        _log.info("tokenised in %.1f s and kept in %s", time.perf_counter() - started, folder)
    return table


def _filled(sink: InFolder | InMemory, ds: Dataset, how: Preparation, most_tokens: int | None = None) -> TokenTable:
    tokens = 0
    for piece in _pieces(ds, how):
        sink.add(piece)
        tokens += len(piece.tokens)
        if most_tokens is not None and tokens >= most_tokens:
            break
    return sink.table()


def kept(ds: Dataset, how: Preparation) -> TokenTable | None:
    """The samples of a dataset that an earlier run has tokenised; None when there are none."""
    folder = _folder_of(ds, how)
    found = None if folder is None else open_table(folder)
    if found is not None and how.is_main:
        _log.info("read %d tokenised samples from %s", len(found), folder)
    return found


def _folder_of(ds: Dataset, how: Preparation) -> Path | None:
    """Where a dataset's tokens are kept, if they are."""
    if how.cache_dir is None or len(ds) < how.least_to_keep or not hasattr(ds, "tokens_fingerprint"):
        return None
    identity = ds.tokens_fingerprint()
    return identity and how.cache_dir / identity


def _pieces(ds: Dataset, how: Preparation) -> Iterator[Piece]:
    """The samples in their order, whoever tokenises them."""
    workers = _workers(len(ds), how.workers)
    ranges = list(in_pieces(len(ds), _PIECE))
    shown = how.is_main and sys.stderr.isatty()
    if how.is_main and not shown and len(ds) >= _WORTH_PROCESSES:
        _log.info("tokenising %d samples in %d process(es)", len(ds), max(workers, 1))
    done, told = 0, time.monotonic()
    with tqdm(total=len(ds), desc="Tokenising", unit=" samples", disable=not shown) as bar:
        for piece in map(_Work(ds), ranges) if workers < 2 else _in_processes(ds, ranges, workers):
            done += len(piece.lengths)
            bar.update(len(piece.lengths))
            if how.is_main and not shown and time.monotonic() - told > _SECONDS_OF_SILENCE:
                _log.info("tokenised %d of %d samples", done, len(ds))
                told = time.monotonic()
            yield piece


def _workers(samples: int, wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_PROCESSES) if samples >= _WORTH_PROCESSES else 0


class _Work:
    def __init__(self, ds: Dataset) -> None:
        self._ds = ds

    def __call__(self, indices: range) -> Piece:
        return Piece.of(self._ds[index] for index in indices)


_work: _Work | None = None  # of a process that tokenises; it is inherited, so that nothing has to be pickled


def _in_processes(ds: Dataset, ranges: list[range], workers: int) -> Iterator[Piece]:
    global _work
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    _work = _Work(ds)
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(_start(context),)) as pool:
            yield from pool.map(_do, ranges, chunksize=1)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that tokenises was killed, perhaps for want of memory; set fewer of them (data_workers: 0 uses "
            "none)"
        ) from error
    finally:
        _work = None


def _start(context: Any) -> _Work | None:
    return None if context.get_start_method() == "fork" else _work


def _begin(work: _Work | None) -> None:
    global _work
    _work = work or _work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are parallel already
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the one that began it was killed and could not tell."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _do(indices: range) -> Piece:
    assert _work is not None
    return _work(indices)


def fingerprint_of(rows: str, *parts: Any) -> str | None:
    """What tokenised data depends on: the rows, the objects that make samples of them, and the code that these run.

    A function is known to the objects by its name alone, and may call others; so the code is that of all modules of the
    user's that are loaded, and ours for samples. The version says nothing of ours between two releases.

    Args:
        parts: the objects, and classes.

    None where an object has no stable form, for example one that holds an open file.
    """
    from datasets.fingerprint import Hasher

    import torchtune

    content = hashlib.sha256(f"{torchtune.__version__} {rows} {_own_sources()} {_sources_of_users()}".encode())
    try:
        for part in parts:
            content.update(Hasher.hash(part).encode())
            kind = part if isinstance(part, type) else type(part)
            content.update(b"".join(map(_source, kind.__mro__)))
    except (TypeError, ValueError, AttributeError, RuntimeError, pickle.PickleError):
        return None
    return content.hexdigest()[:32]


@cache
def _own_sources(root: Path = Path(__file__).parents[2]) -> str:
    """Hash of this package's modules that make samples."""
    found = (path for pattern in _OWN_SOURCES for path in sorted(root.glob(pattern)))
    return _hash_of((str(path.relative_to(root)), path) for path in found)


def _sources_of_users() -> str:
    """Hash of the modules of the user's that are loaded."""
    files = {name: getattr(module, "__dict__", {}).get("__file__") for name, module in list(sys.modules.items())}
    return _hash_of(
        (name, Path(file)) for name, file in sorted(files.items()) if str(file).endswith(".py") and is_users(file)
    )


def _hash_of(files: Iterable[tuple[str, Path]]) -> str:
    """Hash of some files, each with its name."""
    content = hashlib.sha256()
    for name, path in files:
        content.update(f"{name} {hashlib.sha256(_read(path)).hexdigest()} ".encode())
    return content.hexdigest()


def _source(kind: type) -> bytes:
    try:
        return _read(Path(inspect.getfile(kind)))
    except (OSError, TypeError):  # built in
        return b""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # a module may name a file that is not there any more
        return b""
