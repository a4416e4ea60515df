"""A mapping of plain values -> a typed config object, or every fault that stands in the way."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import MISSING
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from torchtune.config._keys import check_value, component_keys, default_of, yaml_of
from torchtune.config._problem import Positions, near, problem, raise_all
from torchtune.config._references import references
from torchtune.config.schema import ELSEWHERE
from torchtune.errors import ConfigError

Fault = tuple[str, str]  # (dotted key, message)
T = TypeVar("T")


def typed(
    schema: type[T],
    raw: Mapping[str, Any] | DictConfig,
    positions: Positions | None = None,
    referenced: Collection[str] = (),
) -> T:
    """The config as an object of ``schema``; its components are config nodes, ready for ``instantiate``.

    Components that ``raw`` leaves out get the schema's default and are added to ``raw`` when it is a DictConfig, so
    that what is saved and logged is what runs.

    Args:
        referenced: keys that are allowed although the schema lacks them, beyond those that a ``${...}`` mentions now.

    Raises:
        ConfigError: names every unknown, missing or wrong key, with its place when ``positions`` knows it.
    """
    root = raw if isinstance(raw, DictConfig) else OmegaConf.create(dict(raw))
    try:
        plain = OmegaConf.to_container(root, resolve=True)
    except OmegaConfBaseException as e:
        raise ConfigError(str(e)) from None
    values, faults, _ = check_keys(schema, plain, free={*referenced, *references(OmegaConf.to_container(root))})
    raise_all(problem(key, message, positions or {}) for key, message in faults)
    components = component_keys(schema)
    for f in dataclasses.fields(schema):
        if f.name in components and f.name not in root and default_of(f) is not None:
            OmegaConf.update(root, f.name, default_of(f), force_add=True)
    nodes = {name: _node(root[name]) for name in components if root.get(name) is not None}
    made = schema(**values | nodes)
    root.__dict__["_helpers"] = plain.keys() - values.keys() - ELSEWHERE.keys()  # what is saved needs none of them
    object.__setattr__(made, "_source", root)  # for `source_of`; the object itself stays frozen
    return made


def _node(value: DictConfig | ListConfig) -> DictConfig | list[DictConfig]:
    return list(value) if isinstance(value, ListConfig) else value


def source_of(cfg: Any) -> DictConfig:
    """The merged config (unresolved) behind a typed config object; a DictConfig is its own source."""
    return cfg if isinstance(cfg, DictConfig) else cfg._source


def unused_keys(schema: type) -> set[str]:
    """Keys that are accepted without effect, so that no component in them is ever made."""
    return {f.name for f in dataclasses.fields(schema) if f.metadata} | ELSEWHERE.keys()


def check_keys(schema: type, raw: Mapping[str, Any], free: set[str]) -> tuple[dict[str, Any], list[Fault], list[str]]:
    """Values for the schema's fields, all faults, and notes on keys that are accepted but change nothing.

    Args:
        free: keys that are allowed although the schema lacks them, because some ``${...}`` refers to them.
    """
    fields = {f.name: f for f in dataclasses.fields(schema)}
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    notes: list[str] = []
    for key, value in raw.items():
        if key in fields:
            _take(fields[key], value, values, faults, notes)
        elif key in ELSEWHERE:
            notes.append(f"{key}: accepted, no effect: {ELSEWHERE[key]}")
        elif key not in free:
            faults.append((key, f"{key!r} is not a key of this recipe.{near(key, fields)}"))
    for name, f in fields.items():
        if name not in raw and f.default is MISSING and f.default_factory is MISSING:
            faults.append((name, f"the config lacks {name!r}, which has no default"))
    failed = {key.partition(".")[0] for key, _ in faults}
    complete = {n: values[n] if n in values and n not in failed else default_of(f) for n, f in fields.items()}
    contradictions = getattr(schema, "contradictions", lambda v: ())(complete)
    faults += [(k, m) for k, m in contradictions if k.partition(".")[0] not in failed]
    return values, faults, notes


def _take(f: dataclasses.Field, value: Any, values: dict, faults: list[Fault], notes: list[str]) -> None:
    values[f.name], fault = check_value(f.name, value, f.type)
    if fault:
        faults.append((f.name, fault))
    elif "inert" in f.metadata:
        notes.append(f"{f.name}: accepted, no effect: {f.metadata['inert']}")
    elif "off" in f.metadata and value not in f.metadata["off"]:
        instead = f" Use {f.metadata['instead']} instead." if f.metadata["instead"] else ""
        message = f"{f.name}: {f.metadata['feature']} is not available; "
        faults.append((f.name, f"{message}remove the key or set it to {yaml_of(f.default)}.{instead}"))
