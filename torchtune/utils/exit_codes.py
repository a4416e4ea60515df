"""How a program ends: which exit code an error has, and the few lines of it that the user sees."""

import errno
import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from torchtune.errors import OUT_OF_MEMORY, PEER_FAILED, CheckpointError, ConfigError, MissingDependency, TuneError
from torchtune.utils._owner import is_ours, is_users

DONE = 0
BUG = 1
INTERRUPTED = 130  # 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM

MAX_LINES = 15
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_DATA_WORKER = "DataLoader worker (pid"  # how torch begins when a process that prepares batches was killed
# What gloo, NCCL and the store say when a process on the other end is gone or hangs.
_PEER_PHRASES = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe", _DATA_WORKER)
_MEMORY_PHRASES = ("can't allocate memory", "CUDA out of memory", "not enough memory")
_MEMORY_ADVICE = (
    "Lower batch_size (and raise gradient_accumulation_steps), shorten tokenizer.max_seq_len, or set\n"
    "enable_activation_checkpointing=True, then enable_activation_offloading=True and optimizer_in_bwd=True."
)
_WORKER_ADVICE = "\nIf nobody ended it, the machine ran out of memory: lower num_workers (0 uses none), or batch_size."

_PACKAGE = Path(__file__).parents[1]
_LAUNCHER_FILES = (__file__, str(_PACKAGE / "cli"), "<frozen runpy>")

T = TypeVar("T")


def exit_code_of(error: BaseException) -> int:
    """The code that a run stopped by this error ends with."""
    if isinstance(error, SystemExit):
        return _system_exit_code(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, TuneError):
        return error.exit_code
    if isinstance(error, _omegaconf_errors()):
        return ConfigError.exit_code
    if _is_out_of_memory(error):
        return OUT_OF_MEMORY
    if _missing_package(error):
        return MissingDependency.exit_code
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return CheckpointError.exit_code
    return PEER_FAILED if _is_peer_failure(error) else BUG


@contextmanager
def ending(log_dir: str | Path | None = None) -> Iterator[None]:
    """Ends the process by exit code, without a traceback for what a user can mend.

    Blocks may be nested: the innermost one reports, the outer ones let its exit pass.

    Args:
        log_dir: gets `error_rank<r>.log` with the whole traceback; None means the folder in `TUNE_LOG_DIR`, if any.
    """
    try:
        yield
    except SystemExit as stop:
        _record(exit_code_of(stop), "")
        raise
    except BaseException as error:  # the outermost frame of a program: whatever it is, it ends here
        code = exit_code_of(error)
        text = _report(error, code, log_dir or os.environ.get("TUNE_LOG_DIR"))
        if not _record(code, text):
            print(text, file=sys.stderr, flush=True)
        raise SystemExit(code) from None
    else:
        _record(DONE, "")


def exits_cleanly(main: Callable[..., T]) -> Callable[..., T]:
    """`main` inside `ending`; its traceback goes below `cfg.output_dir` when its first argument has one."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> T:
        output_dir = getattr(args[0], "output_dir", None) if args else None
        with ending(Path(output_dir) / "logs" if output_dir else None):
            return main(*args, **kwargs)

    return wrapped


def read_records(folder: Path) -> dict[int, dict]:
    """What each process of this machine left behind, by rank: `code`, `text` and `time`."""
    return {int(path.stem): json.loads(path.read_text()) for path in folder.glob("*.json")}


def _record(code: int, text: str) -> bool:
    """Leaves the outcome for the launcher, which prints the first failure only; False where there is no launcher."""
    folder = os.environ.get("TUNE_EXIT_DIR")
    if folder is None:
        return False
    path = Path(folder, f"{_rank()}.json")
    if path.exists() and json.loads(path.read_text())["code"] != DONE:
        return True  # an inner block has said more
    partial = path.with_suffix(".part")
    try:
        partial.write_text(json.dumps({"code": code, "text": text, "time": time.time()}))
        partial.replace(path)
    except OSError:  # the launcher is gone and its folder with it, or the disk is full: say it here
        return False
    return True


def _report(error: BaseException, code: int, log_dir: str | Path | None) -> str:
    trace = "".join(traceback.format_exception(type(error), error, _own_part(error.__traceback__))).rstrip()
    where = _write_log(trace, log_dir)
    if os.environ.get("TUNE_TRACEBACK") == "1":
        return trace
    if code == BUG:
        return f"{trace}\n{_whose_fault(error.__traceback__)} {where}".rstrip()
    lines = _message(error, code).strip().splitlines()
    room = MAX_LINES - 2
    if len(lines) > room:
        lines[room:] = [f"... and {len(lines) - room} more lines."]
    if code != ConfigError.exit_code or where:  # the place of a fault in a config is in its message
        lines.append(where or "(TUNE_TRACEBACK=1 shows the traceback.)")
    return "\n".join(lines)


def _own_part(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames that lead to the user's file."""
    inner = trace
    while inner and inner.tb_frame.f_code.co_filename.startswith(_LAUNCHER_FILES):
        inner = inner.tb_next
    return inner or trace


def _whose_fault(trace: TracebackType | None) -> str:
    """Where an unforeseen error comes from; the innermost frame that is no library's may be in a file of the user's."""
    for frame in reversed(traceback.extract_tb(trace)):
        if is_ours(frame.filename):
            break
        if is_users(frame.filename):
            return f"It happened in {frame.filename}, line {frame.lineno}, which is no part of torchtune."
    return "This looks like a bug rather than a fault in your config or data."


def _message(error: BaseException, code: int) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted."
    if code == OUT_OF_MEMORY:
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        return f"Out of memory: {first}\n{_MEMORY_ADVICE}"
    if code == PEER_FAILED:
        advice = _WORKER_ADVICE if _DATA_WORKER in str(error) else ""
        return f"Another process of this run failed or stopped answering: {error}{advice}"
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return f"No space left on the disk: {error}\nFree some space, or set output_dir to a larger disk."
    if package := _missing_package(error):
        return f"The package {package!r}, which this run imports, is not installed: pip install {package}"
    return f"{type(error).__name__}: {error}"


def _write_log(trace: str, log_dir: str | Path | None) -> str:
    """Writes the traceback and gives the line that says where it is."""
    if log_dir is None:
        return ""
    path = Path(log_dir, f"error_rank{_rank()}.log")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(trace + "\n")
    except OSError as problem:  # for example the full disk that ended the run
        return f"(The traceback could not be written to {path}: {problem.strerror}.)"
    return f"The traceback is in {path}"


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _system_exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return DONE
    return stop.code if isinstance(stop.code, int) else BUG


def _omegaconf_errors() -> tuple[type[BaseException], ...]:
    module = sys.modules.get("omegaconf.errors")
    return (module.OmegaConfBaseException,) if module else ()


def _missing_package(error: BaseException) -> str | None:
    """The package of somebody else that an import did not find, as a recipe of the user's own may need one."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    return None if package == "torchtune" else package


def _is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _MEMORY_PHRASES)


def _is_peer_failure(error: BaseException) -> bool:
    distributed = sys.modules.get("torch.distributed")
    kinds = getattr(distributed, "DistError", None)
    if kinds and isinstance(error, kinds):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PEER_PHRASES)
