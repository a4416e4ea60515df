"""Metric loggers that need no service: the terminal, text files, JSON lines, and several loggers at once."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig

from torchtune.errors import ConfigError
from torchtune.training._metrics_base import MetricLoggerInterface, plain
from torchtune.utils import log_rank_zero
from torchtune.utils._world import is_rank_zero

logger = logging.getLogger(__name__)


class StdoutLogger(MetricLoggerInterface):
    """Prints ``Step {step} | {name}:{value} ...``, one line per call."""

    def log_dict(self, payload: Mapping[str, Any], step: int) -> None:
        if is_rank_zero():
            print(_line(payload, step), flush=True)


class DiskLogger(MetricLoggerInterface):
    """Writes ``Step {step} | {name}:{value} ...`` to a text file, one line per call, each on disk at once.

    Args:
        log_dir: folder, made if it is absent.
        output_fmt: ending of the file's name, "txt" or "log".
        filename: None is ``log_{unix time}.{output_fmt}``.
        kwargs: none is known.

    Raises:
        ConfigError: another ending, or an unknown argument.
    """

    def __init__(self, log_dir: str, output_fmt: str = "txt", filename: str | None = None, **kwargs: Any) -> None:
        if kwargs:
            raise ConfigError(f"DiskLogger has no argument {', '.join(kwargs)}; it takes log_dir, output_fmt, filename")
        if output_fmt not in ("txt", "log"):
            raise ConfigError(f"DiskLogger.output_fmt is {output_fmt!r}; use 'txt' or 'log'")
        self.log_dir = Path(log_dir)
        self.path = self.log_dir / (filename or f"log_{int(time.time())}.{output_fmt}")
        self._file = _open(self.path)
        log_rank_zero(logger, f"Writing logs to {self.path}")

    def log_dict(self, payload: Mapping[str, Any], step: int) -> None:
        if self._file is not None:
            self._file.write(_line(payload, step) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class JsonlLogger(MetricLoggerInterface):
    """Writes ``{"step": ..., "time": <unix seconds>, <name>: <value>, ...}``, one line per call, each on disk at once.

    A run that is resumed appends, so a step that ran again stands twice; the later line counts. NaN is written as null
    and infinities as "inf" and "-inf", since JSON has no word for them.

    Args:
        log_dir: folder, made if it is absent.
    """

    def __init__(self, log_dir: str, filename: str = "metrics.jsonl") -> None:
        self.path = Path(log_dir) / filename
        if is_rank_zero() and self.path.exists():
            _drop_torn_line(self.path)
        self._file = _open(self.path)

    def log_dict(self, payload: Mapping[str, Any], step: int) -> None:
        if self._file is not None:
            record = {"step": step, "time": time.time()} | {name: _json_value(v) for name, v in payload.items()}
            self._file.write(json.dumps(record, allow_nan=False) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class MetricLoggers(MetricLoggerInterface):
    """Several loggers that are told the same."""

    def __init__(self, loggers: Iterable[MetricLoggerInterface]) -> None:
        self.loggers = list(loggers)

    def log_dict(self, payload: Mapping[str, Any], step: int) -> None:
        for each in self.loggers:
            each.log_dict(payload, step)

    def log_config(self, config: DictConfig) -> None:
        for each in self.loggers:
            each.log_config(config)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            # So that all are closed, also when one of them fails at it.
            for each in reversed(self.loggers):
                stack.callback(each.close)


def _open(path: Path) -> TextIO | None:
    if not is_rank_zero():
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8", buffering=1)


def _line(payload: Mapping[str, Any], step: int) -> str:
    return f"Step {step} | " + " ".join(f"{name}:{plain(value)}" for name, value in payload.items())


def _json_value(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _drop_torn_line(path: Path) -> None:
    # A process that was killed while writing leaves the start of a line, which would spoil the next one.
    with path.open("rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
