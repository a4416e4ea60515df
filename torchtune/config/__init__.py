"""Configs: YAML and overrides -> checked, typed keys -> objects. Imports neither torch nor any component by itself."""

from torchtune.config._check import check, notes
from torchtune.config._keys import Component
from torchtune.config._load import LoadedConfig, load, load_text, read_file
from torchtune.config._parse import log_config, parse, read_config, save, split_arguments, validate
from torchtune.config._problem import Place, Problem
from torchtune.config._redact import redact, redact_text, to_yaml
from torchtune.config._resolve import get_component, instantiate
from torchtune.config._typed import source_of, typed

__all__ = [
    "Component",
    "LoadedConfig",
    "Place",
    "Problem",
    "check",
    "get_component",
    "instantiate",
    "load",
    "load_text",
    "log_config",
    "notes",
    "parse",
    "read_config",
    "read_file",
    "redact",
    "redact_text",
    "save",
    "source_of",
    "split_arguments",
    "to_yaml",
    "typed",
    "validate",
]
