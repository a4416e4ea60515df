"""Files written once: hashed as they go, synced to the disk, with errors of the storage told in full."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torchtune.errors import CheckpointError

_CHUNK_BYTES = 1 << 24
_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class FileRecord:
    """What a manifest knows of a file."""

    bytes: int
    sha256: str


class HashedFile:
    """A new file that is hashed while it is written; the mode follows the umask. Closing it syncs it to the disk."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._sha, self._bytes = hashlib.sha256(), 0

    def write(self, data: Any) -> None:
        """Append bytes, or anything with a byte buffer."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        for start in range(0, len(view), _CHUNK_BYTES):
            self._write_all(view[start : start + _CHUNK_BYTES])

    def _write_all(self, chunk: memoryview) -> None:
        self._sha.update(chunk)
        self._bytes += len(chunk)
        while len(chunk):
            chunk = chunk[os.write(self._fd, chunk) :]

    @property
    def record(self) -> FileRecord:
        """Size and hash of what was written so far."""
        return FileRecord(self._bytes, self._sha.hexdigest())

    def __enter__(self) -> "HashedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                os.fsync(self._fd)
        finally:
            os.close(self._fd)


def record_of(path: Path) -> FileRecord:
    """Size and hash of a file on the disk."""
    with open(path, "rb") as f:
        digest = hashlib.file_digest(f, "sha256")
        return FileRecord(f.tell(), digest.hexdigest())


def copy_file(source: Path, target: Path) -> FileRecord:
    """Copy the bytes (not the mode) of a file."""
    with open(source, "rb") as f, HashedFile(target) as out:
        while chunk := f.read(_CHUNK_BYTES):
            out.write(chunk)
    return out.record


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: Path, data: bytes) -> FileRecord:
    """Replace a file in one step: a reader, or a crash, meets the old bytes or the new ones."""
    temporary = path.with_name(f".tmp-{path.name}")
    with HashedFile(temporary) as out:
        out.write(data)
    os.replace(temporary, path)
    sync(path.parent)
    return out.record


def write_json(path: Path, value: Any) -> FileRecord:
    """Replace a JSON file in one step."""
    return write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        CheckpointError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise CheckpointError(f"cannot read {path}: {e.strerror}") from e
    except ValueError as e:
        raise CheckpointError(f"{path} is not valid JSON ({e}); it may be truncated") from e


def human(num_bytes: int) -> str:
    """``5.2 GB``, ``30.1 MB`` or ``12 kB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes / 1000:.0f} kB"


def require_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        CheckpointError: the disk has less than ``needed_bytes`` left.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise CheckpointError(
            f"not enough space in {folder}: the checkpoint needs {human(needed_bytes)}, {human(free)} are free. "
            "Nothing was written and older checkpoints are untouched. Free some space, choose another output_dir, "
            "or set keep_last_n_checkpoints."
        )


@contextmanager
def storage_errors(folder: Path, needed_bytes: int = 0) -> Iterator[None]:
    """Turn errors of the storage inside into ones that say what to do."""
    try:
        yield
    except OSError as e:
        if e.errno in _OUT_OF_SPACE:
            need = f"the checkpoint needs {human(needed_bytes)}, " if needed_bytes else ""
            free = human(shutil.disk_usage(folder).free)
            message = f"no space left in {folder}: {need}{free} are free. Older checkpoints are untouched."
        else:
            message = f"cannot read or write {e.filename or folder}: {e.strerror or e}"
        raise CheckpointError(message) from e
