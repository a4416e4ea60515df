"""``@parse``: a recipe's main becomes a command that reads ``--config FILE key=value ...``."""

import dataclasses
import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from torchtune.config import _allow, _redact
from torchtune.config._check import check, component_faults, notes
from torchtune.config._load import LoadedConfig, load
from torchtune.config._problem import problem, raise_all
from torchtune.config._resolve import _plain
from torchtune.config._typed import source_of, typed
from torchtune.errors import ConfigError

log = logging.getLogger(__name__)


def parse(recipe_main: Callable[[Any], Any]) -> Callable[..., Any]:
    """Makes ``recipe_main(cfg)`` a function without arguments that takes the config from the command line.

    When ``cfg`` is annotated with a dataclass of keys, the config is checked against it and arrives as that object;
    otherwise as the merged DictConfig. Faults are raised as ConfigError, all at once.
    """

    @functools.wraps(recipe_main)
    def command(argv: Sequence[str] | None = None) -> Any:
        return recipe_main(_config(recipe_main, list(sys.argv[1:] if argv is None else argv)))

    return command


def read_config(loaded: LoadedConfig, schema: type | None, allow: Sequence[str] = ()) -> Any:
    """The checked config: an object of ``schema``, or the merged DictConfig when there is none.

    Raises:
        ConfigError: with one line for each fault.
    """
    raise_all(check(loaded, schema, allow))
    said = notes(loaded, schema) if schema else loaded.notes
    if os.environ.get("RANK", "0") == "0":
        for note in said:
            log.info("Note: %s", _redact.redact_text(note))
    return typed(schema, loaded.cfg, loaded.positions, loaded.referenced) if schema else loaded.cfg


def schema_of(recipe_main: Callable[[Any], Any]) -> type | None:
    """The dataclass that annotates main's parameter, or None."""
    annotations = inspect.get_annotations(recipe_main, eval_str=True)
    first = next(iter(inspect.signature(recipe_main).parameters), None)
    kind = annotations.get(first)
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _config(recipe_main: Callable[[Any], Any], argv: list[str]) -> Any:
    schema = schema_of(recipe_main)
    script = os.path.basename(sys.argv[0]) or "recipe"
    usage = f"usage: {script} --config FILE [key=value ...] [~key ...] [--allow-component PACKAGE]"
    if {"-h", "--help"} & set(argv):
        print(_help(usage, recipe_main, schema))
        raise SystemExit(0)
    path, allow, words = split_arguments(argv)
    if path is None:
        raise ConfigError(f"--config FILE is missing\n{usage}")
    if allow:  # worker processes and `instantiate` learn it from there
        os.environ[_allow.ENVIRONMENT] = ",".join(_allow.extra_allowed(allow))
    return read_config(load(path, words), schema, allow)


def split_arguments(argv: Sequence[str]) -> tuple[str | None, list[str], list[str]]:
    """(the file after --config, the packages after --allow-component, all other words).

    Raises:
        ConfigError: an option lacks its value, or --config comes twice.
    """
    found: dict[str, list[str]] = {"--config": [], "--allow-component": []}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in found:
            rest.append(word)
            continue
        value = value if equals else next(words, None)
        if not value:
            raise ConfigError(f"{name} wants a value after it")
        found[name].append(value)
    if len(found["--config"]) > 1:
        raise ConfigError("--config is given twice; settings that differ are written key=value")
    return next(iter(found["--config"]), None), found["--allow-component"], rest


def _help(usage: str, recipe_main: Callable, schema: type | None) -> str:
    lines = [usage, "", inspect.getdoc(recipe_main) or "", ""]
    if schema is not None:
        lines += ["keys:", *(f"  {f.name}" for f in dataclasses.fields(schema) if not f.metadata)]
    return "\n".join(lines)


def save(cfg: Any, path: str | os.PathLike[str]) -> Path:
    """Writes the resolved config (typed or merged) as YAML, without secrets. Gives the file's path."""
    return _redact.save_yaml(source_of(cfg), path)


def log_config(recipe_name: str, cfg: Any) -> None:
    """Logs the resolved config once (rank 0 only), without secrets. ``cfg`` is a DictConfig or a typed config."""
    if os.environ.get("RANK", "0") == "0":
        log.info("%s runs with this config:\n\n%s", recipe_name, _redact.to_yaml(source_of(cfg)))


def validate(cfg: DictConfig) -> None:
    """Checks all components of a config and their arguments, without importing any.

    Raises:
        ConfigError: one line for each fault.
    """
    loaded = cfg.__dict__.get("_loaded")
    positions = loaded.positions if loaded else {}
    raise_all(problem(key, message, positions) for key, message in component_faults(_plain(cfg)))
