"""One run at a time in an output folder."""

import errno
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from torchtune.errors import CheckpointError
from torchtune.training.checkpointing._io import storage_errors

LOCK = ".lock"


class OutputLock:
    """Holds an output folder until it is closed or the process ends, however it ends.

    Raises:
        CheckpointError: another run holds the folder, or it cannot be written.
    """

    def __init__(self, output_dir: str | Path) -> None:
        folder = Path(output_dir)
        if folder.is_file():
            raise CheckpointError(f"output_dir {folder} is a file; name a folder")
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._fd: int | None = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not shared with forked data workers
        except OSError as e:
            holder = os.read(self._fd, 200).decode(errors="replace").strip() or "another run"
            self.close()
            if e.errno not in (errno.EAGAIN, errno.EACCES):
                raise CheckpointError(f"cannot lock {folder / LOCK}: {e.strerror}") from e
            raise CheckpointError(
                f"output_dir {folder} is in use by {holder}. Two runs in one folder would overwrite each other's "
                "checkpoints: wait for it, stop it, or choose another output_dir."
            ) from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def close(self) -> None:
        """Release the folder; a second call does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> "OutputLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
