"""What the commands ask of the config reader: all faults of a file, and whether it names what it must not."""

import os
from collections.abc import Sequence
from pathlib import Path

from torchtune import config
from torchtune.config import Problem
from torchtune.errors import ConfigError

_SHOWN = 10


def examine(
    path: Path, words: Sequence[str], schema: str | None, allowed: Sequence[str] = ()
) -> tuple[list[Problem], list[str]]:
    """Every fault of a config with `key=value` words applied, in the order of the file; and, where there is none, what
    is worth knowing of it.

    Args:
        schema: name of the class that types the recipe's keys; None checks the components only.
    """
    loaded = config.load(path, words)
    found = config.check(loaded, _schema(schema), allowed)
    return found, config.notes(loaded, _schema(schema)) if schema and not found else []


def check_for_run(path: Path, words: Sequence[str], schema: str | None, allowed: Sequence[str]) -> str | None:
    """Refuses a config with faults; gives its `output_dir`."""
    loaded = config.load(path, words)
    found = config.check(loaded, _schema(schema), allowed)
    if len(found) > _SHOWN:
        found[_SHOWN:] = [f"... and {len(found) - _SHOWN} more: `tune validate {path}` shows them all."]
    if found:
        raise ConfigError("the config cannot be run:\n" + "\n".join(map(str, found)))
    output_dir = loaded.cfg.get("output_dir")
    return None if output_dir is None else str(output_dir)


def refuse_unsafe(path: Path, allowed: Sequence[str]) -> None:
    """Refuses a config whose components are not trusted; other faults may be there while somebody writes it."""
    found = config.check(config.load(path), None, allowed)
    found = [problem for problem in found if "--allow-component" in problem.message]
    if found:
        raise ConfigError("\n".join(map(str, found)))


def allow(packages: Sequence[str]) -> None:
    """Makes the packages trusted in this process and in those that it starts."""
    if not packages:
        return
    name = "TUNE_ALLOW_COMPONENTS"
    os.environ[name] = ",".join(filter(None, [os.environ.get(name), *packages]))


def _schema(name: str | None) -> type | None:
    if name is None:
        return None
    from torchtune.config import schema

    return getattr(schema, name)
