"""Folders that exist only when they are complete: written under a hidden name, synced, listed with hashes, renamed."""

import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torchtune.errors import CheckpointError, ConfigError, TuneError
from torchtune.training.checkpointing._io import (
    FileRecord,
    read_json,
    record_of,
    require_space,
    storage_errors,
    sync,
    write_json,
)

MANIFEST = "MANIFEST.json"
RECIPE_STATE = "recipe_state"
_NAME = re.compile(r"^(epoch|step)_(\d+)$")
_HASHING_THREADS = min(8, os.cpu_count() or 1)

Gather = Callable[[Any], list[Any]]
"""Every process gives a small value and gets the list of all, by rank."""

logger = logging.getLogger(__name__)


def alone(value: Any) -> list[Any]:
    """The :data:`Gather` of a world of one process."""
    return [value]


def commit_folder(
    final: Path,
    write: Callable[[Path], Mapping[str, FileRecord] | None],
    *,
    main: bool = True,
    gather: Gather = alone,
    facts: Mapping[str, Any] | None = None,
    needed_bytes: int = 0,
) -> None:
    """Make a folder in one step, in place of one of that name if there is one. Every process calls this.

    A crash at any moment leaves the old folder, the new one, or hidden leftovers that :func:`sweep` puts right.

    Args:
        write: puts files into the hidden folder that it is given, and may return the records of those it hashed
            (relative path -> record); the main process hashes the rest.
        main: True on the one process that makes, renames and deletes folders.
        facts: JSON values kept in the manifest; ``step`` orders checkpoints by age.
        needed_bytes: what ``write`` will take on the disk, checked before it starts.

    Raises:
        CheckpointError: the storage failed on some process; raised on all, and older folders are untouched.
    """
    hidden = final.with_name(f".tmp-{final.name}")
    _everyone(gather, lambda: _begin(hidden, needed_bytes) if main else None)
    try:
        records = _everyone(gather, lambda: _write(write, hidden, needed_bytes))
    except CheckpointError:
        if main:
            shutil.rmtree(hidden, ignore_errors=True)
        raise
    known = {name: record for each in records for name, record in (each or {}).items()}
    _everyone(gather, lambda: _publish(hidden, final, known, dict(facts or {})) if main else None)


def _everyone(gather: Gather, work: Callable[[], Any]) -> list[Any]:
    """Run ``work`` on every process and give all results; a failure on one is raised on each."""
    result, error = None, None
    try:
        result = work()
    except (TuneError, OSError) as e:
        error = e
    results = gather((result, None if error is None else str(error)))
    if error is not None:
        raise error if isinstance(error, CheckpointError) else CheckpointError(str(error)) from error
    if told := next((message for _, message in results if message is not None), None):
        raise CheckpointError(told)
    return [value for value, _ in results]


def _begin(hidden: Path, needed_bytes: int) -> None:
    with storage_errors(hidden.parent, needed_bytes):
        hidden.parent.mkdir(parents=True, exist_ok=True)
        _recover(hidden.parent)
        require_space(hidden.parent, needed_bytes)
        hidden.mkdir()


def _write(write: Callable[[Path], Mapping[str, FileRecord] | None], hidden: Path, needed_bytes: int) -> dict:
    with storage_errors(hidden.parent, needed_bytes):
        return dict(write(hidden) or {})


def _publish(hidden: Path, final: Path, known: Mapping[str, FileRecord], facts: dict[str, Any]) -> None:
    with storage_errors(final.parent):
        files = sorted(p for p in hidden.rglob("*") if p.is_file())
        records = {}
        for path in files:
            name = path.relative_to(hidden).as_posix()
            records[name] = vars(known.get(name) or record_of(path))
            sync(path)
        write_json(hidden / MANIFEST, {"version": 1, "facts": facts, "files": records})
        for folder in {p.parent for p in files} | {hidden}:
            sync(folder)
        _swap(hidden, final)


def _swap(hidden: Path, final: Path) -> None:
    old = final.with_name(f".old-{final.name}")
    if final.exists():
        os.rename(final, old)
    os.rename(hidden, final)
    sync(final.parent)
    if old.exists():
        _discard(old, final.name)


def _recover(parent: Path) -> None:
    """Put right what a crash left: finish a replacement that had begun, and delete what was not finished."""
    for old in parent.glob(".old-*"):
        name = old.name.removeprefix(".old-")
        if (parent / name).exists():
            _discard(old, name)
        else:
            os.rename(old, parent / name)
    for left in (*parent.glob(".tmp-*"), *parent.glob(".trash-*")):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def sweep(output_dir: Path) -> None:
    """Remove the leftovers of an interrupted save. Only the main process calls this, holding the folder's lock."""
    with storage_errors(output_dir):
        for parent in (output_dir, output_dir / RECIPE_STATE):
            if parent.is_dir():
                _recover(parent)


def fault(folder: Path, deep: bool = True) -> str | None:
    """Why a folder is not as it was committed, or None.

    Args:
        deep: compare contents too, not only sizes.
    """
    if not (folder / MANIFEST).is_file():
        return f"it has no {MANIFEST}"
    try:
        files = {n: FileRecord(r["bytes"], r["sha256"]) for n, r in read_json(folder / MANIFEST)["files"].items()}
    except (CheckpointError, KeyError, TypeError, AttributeError):
        return f"its {MANIFEST} is damaged"
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != record.bytes:
            return f"{name} has {path.stat().st_size:,} bytes, {record.bytes:,} were written"
    if deep:
        with ThreadPoolExecutor(_HASHING_THREADS) as pool:
            for name, found in zip(files, pool.map(lambda n: record_of(folder / n), files)):
                if found != files[name]:
                    return f"the contents of {name} have changed since it was written (sha256 differs)"
    return None


def is_complete(folder: Path, deep: bool = True) -> bool:
    """Whether a folder is as it was committed."""
    return fault(folder, deep) is None


def is_checkpoint(folder: Path) -> bool:
    """Whether a run has made a folder; torchtune's, which have no manifest, are told by their names."""
    return (folder / MANIFEST).is_file() or _NAME.match(folder.name) is not None


def facts_of(folder: Path) -> dict[str, Any]:
    """What the maker of a committed folder noted in its manifest."""
    return read_json(folder / MANIFEST)["facts"]


def checkpoints(output_dir: Path) -> list[Path]:
    """The ``epoch_N`` and ``step_N`` folders, newest first; their contents are not judged."""
    found = [p for p in output_dir.iterdir() if _NAME.match(p.name) and p.is_dir()] if output_dir.is_dir() else []
    return sorted(found, key=_age, reverse=True)


def _age(folder: Path) -> tuple[float, int, int, int]:
    """The run that wrote it, steps done, when it was written, its number; one that cannot tell counts as the newest."""
    number = int(_NAME.match(folder.name)[2])
    try:
        facts = facts_of(folder)
        return int(facts.get("run", 0)), int(facts.get("step", -1)), (folder / MANIFEST).stat().st_mtime_ns, number
    except (CheckpointError, OSError, KeyError, TypeError, AttributeError, ValueError):
        return math.inf, 0, folder.stat().st_mtime_ns, number


def newest_complete(
    output_dir: Path, judge: Callable[[Path], str | None] = fault
) -> tuple[Path | None, dict[str, str]]:
    """The newest checkpoint that verifies, and why each newer one was passed over (name -> reason).

    Args:
        judge: says what is wrong with a checkpoint, or None.
    """
    rejected: dict[str, str] = {}
    for folder in checkpoints(output_dir):
        reason = judge(folder)
        if reason is None:
            return folder, rejected
        rejected[folder.name] = reason
        logger.warning("Passing over checkpoint %s: %s.", folder, reason)
    return None, rejected


def prune(
    output_dir: Path, keep_last_n: int | None, *, keep_states: int | None = None, protect: Collection[Path] = ()
) -> list[Path]:
    """Delete the oldest complete checkpoints and the run states of checkpoints that are gone; gives what was deleted.

    Args:
        keep_last_n: complete checkpoints to keep; None keeps all.
        keep_states: run states (optimizer and the like) to keep, the newest; None keeps one for each checkpoint.
        protect: folders that stay, for example the one that training began from.

    Raises:
        ConfigError: a number is below one.
    """
    for number in (keep_last_n, keep_states):
        if number is not None and number < 1:
            raise ConfigError(f"keep_last_n_checkpoints is {number}; at least 1 must be kept")
    safe = {p.resolve() for p in protect}
    complete = [p for p in checkpoints(output_dir) if is_complete(p, deep=False)]
    old = [p for p in complete[keep_last_n:] if p.resolve() not in safe] if keep_last_n else []
    kept = [p.name for p in complete if p not in old][:keep_states]
    states = output_dir / RECIPE_STATE
    named = [p for p in states.iterdir() if _NAME.match(p.name)] if states.is_dir() else []
    gone = [*(p for p in named if p.name not in kept), *old]
    with storage_errors(output_dir):
        for folder in gone:
            _discard(folder, folder.name)
    return gone


def _discard(folder: Path, name: str) -> None:
    """Rename first, so that a crash in between leaves no folder that has lost some files."""
    trash = folder.with_name(f".trash-{name}")
    if trash.exists():
        shutil.rmtree(trash)
    os.rename(folder, trash)
    sync(folder.parent)
    shutil.rmtree(trash)
