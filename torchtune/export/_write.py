"""From a checkpoint to a finished folder: plan, write, check, and only then give it its name."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from torchtune.errors import CheckpointError, ConfigError, MissingDependency
from torchtune.export import REPORT, TARGETS, Options
from torchtune.export._source import open_adapter, open_source
from torchtune.training.checkpointing._atomic import commit_folder, facts_of
from torchtune.training.checkpointing._io import FileRecord, storage_errors, write_json


@dataclass(frozen=True)
class Plan:
    """All that a format has to say before the first byte is written.

    Args:
        num_bytes: of the weights on the disk.
        write: puts the files into a folder that exists; gives the records of those it hashed.
        kept: (name, tensor of ours) -> the same, with the rounding that the format's numbers have; None if there is
            none.
        reader: opens the written folder with the code of ``read_with``; see :mod:`torchtune.export._readers`.
        read_with: packages.
        is_as_trained: the format of dialogues is that of training, whatever the chat template.
    """

    num_bytes: int
    write: Callable[[Path], Mapping[str, FileRecord]]
    reader: Callable[[Path], Any]
    read_with: tuple[str, ...]
    kept: Callable[[str, Tensor], Tensor] | None = None
    is_as_trained: bool = False


def write_export(path: Path, to: str, output: Path, options: Options) -> Path:
    """See :func:`torchtune.export.export_to`."""
    _check_output(path, output, options.force)
    opens = partial(open_adapter, weights=options.verify) if TARGETS[to].of_adapter else open_source
    source = opens(path, options.base)
    plan: Plan = import_module(f"torchtune.export._{to}").plan(source, options)
    if options.verify:
        _require(plan.read_with)

    def write(folder: Path) -> dict[str, FileRecord]:
        records = dict(plan.write(folder))
        if options.verify:
            from torchtune.export._verify import verify

            records[REPORT] = write_json(folder / REPORT, verify(source, plan, folder, to))
        return records

    _commit(output, write, {"export": to, "source": str(path.resolve())}, plan.num_bytes)
    return output


def _require(packages: Iterable[str]) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise MissingDependency(
                f"--verify reads the export back with {package}, which is not installed: pip install {package}"
            )


def _check_output(path: Path, output: Path, force: bool) -> None:
    inside = output.resolve()
    if path.resolve() in (inside, *inside.parents) or inside in path.resolve().parents:
        raise ConfigError(f"{output} is, holds or lies in what is exported; choose another --output-dir")
    if output.is_file():
        raise ConfigError(f"{output} is a file; --output-dir must be a folder")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not _is_export(output):
        raise ConfigError(f"{output} is not empty, and `tune export` did not make it; choose another --output-dir")
    if not force:
        raise ConfigError(f"{output} holds an earlier export; --force replaces it, --output-dir names another folder")


def _is_export(folder: Path) -> bool:
    try:
        return "export" in facts_of(folder)
    except (CheckpointError, KeyError, TypeError):  # there is no manifest, or one that somebody else made
        return False


def _commit(
    output: Path, write: Callable[[Path], Mapping[str, FileRecord]], facts: Mapping[str, Any], num_bytes: int
) -> None:
    """Make the folder whole in a hidden one beside it. What else is in that place may be of a run, and stays."""
    place = output.with_name(f".export-{output.name}")
    with storage_errors(output.parent):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    try:
        commit_folder(place / "new", write, facts=facts, needed_bytes=num_bytes)
        with storage_errors(output.parent):
            if output.exists():
                os.rename(output, place / "old")
            os.rename(place / "new", output)
    finally:
        shutil.rmtree(place, ignore_errors=True)
