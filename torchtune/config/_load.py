"""A config file and command-line words -> one merged config that remembers where each key came from."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from torchtune.config import _overrides, _package, _yaml
from torchtune.config._legacy import Normaliser
from torchtune.config._problem import Place, Problem, place_of, problem, shown
from torchtune.config._references import references
from torchtune.errors import ConfigError


@dataclass
class LoadedConfig:
    """A merged config, not yet resolved or checked.

    ``positions`` has the place of every dotted key, ``notes`` what was rewritten on the way, ``problems`` what could
    not be read as it stands, ``referenced`` the first names of what the file's own ``${...}`` mention.
    """

    cfg: DictConfig
    path: str
    positions: dict[str, Place]
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    referenced: set[str] = field(default_factory=set)

    @property
    def free(self) -> set[str]:
        """Keys that need no meaning of their own: a ``${...}`` mentions them, or did until a word replaced it."""
        return self.referenced | references(OmegaConf.to_container(self.cfg))


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> LoadedConfig:
    """The config in a YAML file with ``key=value`` and ``~key`` words applied.

    Raises:
        ConfigError: the file or a word cannot be read; what is wrong with the keys themselves is for ``check``.
    """
    data, positions = _yaml.read(Path(path))
    return _merge(data, positions, shown(path), overrides)


def read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The keys of a YAML file as they are written: nothing is renamed, put in or resolved.

    Raises:
        ConfigError: there is no such file, or its text is not one mapping of plain values.
    """
    return _yaml.read(Path(path))[0]


def load_text(text: str, file: str = "config", overrides: Sequence[str] = ()) -> LoadedConfig:
    """As ``load``, from text; ``file`` stands in messages."""
    data, positions = _yaml.parse_text(text, file)
    return _merge(data, positions, file, overrides)


def _merge(data: dict[str, Any], positions: dict[str, Place], file: str, words: Sequence[str]) -> LoadedConfig:
    referenced = references(data)
    normaliser = Normaliser(data, positions, free=lambda: referenced | references(data))
    normaliser.run()
    if words:
        parsed = _overrides.parse_overrides(words)
        normaliser.notes += _overrides.apply(parsed, data, positions, normaliser.moved)
        normaliser.run()
    absent: list[_package.Fault] = []
    try:
        cfg = OmegaConf.create(_package.expand(data, absent))
    except OmegaConfBaseException as e:
        key = (e.full_key or "").replace("[", ".").replace("]", "")
        message = f"{key}: what begins with ${{ cannot be read ({str(e).partition(chr(10))[0]}); "
        advice = "${output_dir} repeats another value, and a backslash before ${ makes it plain text"
        raise ConfigError(str(problem(key, message + advice, positions, file))) from None
    problems = normaliser.problems + [problem(key, message, positions, file) for key, message in absent]
    loaded = LoadedConfig(cfg, file, positions, list(dict.fromkeys(normaliser.notes)), problems, referenced)
    cfg.__dict__["_loaded"] = loaded  # lets `instantiate` name the line of a node
    return loaded


def place_in(node: DictConfig, key: str = "") -> Place | None:
    """The place of a config node, or of a key in it, when the config came from ``load``."""
    loaded = node._get_root().__dict__.get("_loaded")
    full = node._get_full_key(key or None)
    return place_of(full.replace("[", ".").replace("]", ""), loaded.positions) if loaded else None
