"""What every metric logger offers, and what all of them do alike with configs and numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

from torchtune import config as config_files
from torchtune.errors import ConfigError
from torchtune.utils._world import is_rank_zero

CONFIG_FILE = "torchtune_config.yaml"


class MetricLoggerInterface(Protocol):
    """Takes numbers by name and step. Every process may call it; the first one alone writes."""

    def log(self, name: str, data: Any, step: int) -> None:
        """Record one number: a Python, numpy or one-element tensor scalar."""
        self.log_dict({name: data}, step)

    def log_config(self, config: DictConfig) -> None:
        """Record the config, without secrets; at least as ``torchtune_config.yaml`` in its ``output_dir``."""
        if is_rank_zero():
            save_config(config)

    def log_dict(self, payload: Mapping[str, Any], step: int) -> None:
        """Record several numbers of one step."""
        ...

    def close(self) -> None:
        """Write out what is pending; nothing may be logged afterwards."""


def save_config(config: DictConfig) -> Path:
    """Write the config, without secrets, as ``torchtune_config.yaml`` into its ``output_dir``; gives the file's path.

    Raises:
        ConfigError: neither the config nor its checkpointer has an ``output_dir``.
    """
    source = config_files.source_of(config)
    folder = source.get("output_dir") or (source.get("checkpointer") or {}).get("output_dir")
    if folder is None:
        raise ConfigError("the config has no output_dir to be saved in; add one")
    return config_files.save(config, Path(folder) / CONFIG_FILE)


def flatten_dict(d: dict[str, Any], *, sep: str = ".", parent_key: str = "") -> dict[str, Any]:
    """Nested dicts as one dict, keys joined: ``{"a": {"b": 1}} -> {"a.b": 1}``; lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in d.items():
        name = f"{parent_key}{sep}{key}" if parent_key else str(key)
        flat.update(flatten_dict(value, sep=sep, parent_key=name) if isinstance(value, dict) else {name: value})
    return flat


def plain(value: Any) -> Any:
    """A one-element tensor's or array's number; anything else as it is."""
    return value.item() if hasattr(value, "item") else value
