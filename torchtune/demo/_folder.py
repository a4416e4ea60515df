"""The results of an earlier demo make room for those of a new one."""

import shutil
from pathlib import Path

from torchtune.training.checkpointing._lock import LOCK, OutputLock


def empty(folder: Path) -> None:
    """Delete everything in a folder but its lock.

    Raises:
        CheckpointError: a run holds the folder.
    """
    with OutputLock(folder):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
