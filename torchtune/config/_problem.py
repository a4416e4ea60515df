"""What is wrong in a config and where: a place in a file, a problem there, and the nearest right name."""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torchtune.config._redact import redact_text
from torchtune.errors import ConfigError

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Place:
    """Where a key stands: a file and a line counted from 1, or the command line (no line)."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One fault of a config. ``str()`` gives ``file.yaml:12: message``."""

    file: str | None
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        if self.file is None:
            return self.message
        return f"{Place(self.file, self.line)}: {self.message}"


Positions = Mapping[str, Place]


def place_of(key: str, positions: Positions) -> Place | None:
    """The place of a dotted key, or else of the nearest mapping around it that has one."""
    while key:
        if key in positions:
            return positions[key]
        key = key.rpartition(".")[0]
    return None


def problem(key: str, message: str, positions: Positions, file: str | None = None) -> Problem:
    """A fault of ``key``; ``file`` is named alone when neither the key nor one around it has a place."""
    place, message = place_of(key, positions), redact_text(message)
    return Problem(place.file if place else file, place.line if place else None, key, message)


def near(name: str, names: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the most similar of ``names``, or nothing when none is similar."""
    names = [n for n in names if isinstance(n, str)]
    if match := difflib.get_close_matches(name, names, 1):
        return f" Did you mean {match[0]!r}?"
    folded = {n.lower(): n for n in names}  # `info` is INFO, `adamw8BIT` is AdamW8bit
    match = difflib.get_close_matches(name.lower(), folded, 1)
    return f" Did you mean {folded[match[0]]!r}?" if match else ""


def shown(path: str | os.PathLike[str]) -> str:
    """The path as the user would type it: relative to the current folder when it lies below that."""
    text, here = os.path.abspath(path), os.getcwd()
    return os.path.relpath(text, here) if text.startswith(here + os.sep) else text


def raise_all(problems: Iterable[Problem]) -> None:
    """Raises: ConfigError: with one line per problem, when there is any."""
    lines = [str(p) for p in problems]
    if lines:
        raise ConfigError("\n".join(lines))
