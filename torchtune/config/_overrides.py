"""What stands on the command line after the config: ``key=value``, ``a.b=value``, ``~key``; applied to plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchtune.config import _names, _static
from torchtune.config._keys import optional_keys
from torchtune.config._problem import COMMAND_LINE, Place, near
from torchtune.config._redact import HIDDEN, is_secret_key, redact_text
from torchtune.config._yaml import parse_value
from torchtune.config.schema import FinetuneConfig
from torchtune.errors import ConfigError

Path = tuple[str, ...]
_HERE = Place(COMMAND_LINE)


@dataclass
class Overrides:
    """Parsed command-line words: what to remove and what to set, in their order."""

    removed: list[Path] = field(default_factory=list)
    assigned: list[tuple[Path, Any]] = field(default_factory=list)


def parse_overrides(words: Sequence[str]) -> Overrides:
    """Reads command-line words.

    Raises:
        ConfigError: a word is neither ``key=value`` nor ``~key``.
    """
    out = Overrides()
    for word in words:
        if word.startswith("~"):
            if "=" in word:
                raise ConfigError(f"{word!r}: ~ removes a key and takes no value; write ~{word[1:].partition('=')[0]}")
            out.removed.append(_path(word[1:], word))
            continue
        key, equals, text = word.partition("=")
        if word.startswith("-"):
            bare = key.lstrip("-").replace("-", "_") or "key"
            raise ConfigError(f"{_quoted(word)}: settings are written key=value without dashes, as {bare}=VALUE")
        if not equals:
            raise ConfigError(f"{_quoted(word)}: expected key=value or ~key")
        path = _path(key, word)
        try:
            value = text if "max_filename" in path[-1] else parse_value(text)
        except ConfigError as e:
            raise ConfigError(f"{_quoted(word)}: {e}") from None
        out.assigned.append((path, value))
    return out


def _quoted(word: str) -> str:
    """A command-line word as it may be shown: a credential in it is hidden."""
    key, equals, value = word.partition("=")
    return repr(
        redact_text(key) + equals + (HIDDEN if value and is_secret_key(key.rpartition(".")[2]) else redact_text(value))
    )


def _path(key: str, word: str) -> Path:
    path = tuple(key.replace("[", ".").replace("]", "").split("."))
    if not all(path):
        raise ConfigError(f"{_quoted(word)}: {key!r} is not a key; a key is words joined by single dots")
    if path[0] == "config":
        raise ConfigError(f"{_quoted(word)}: `config` is not a key; --config names the file")
    return path


def apply(
    overrides: Overrides, data: dict[str, Any], positions: dict[str, Place], moved: Mapping[str, str]
) -> list[str]:
    """Changes ``data`` and ``positions`` in place; the notes say which arguments went with a replaced component.

    Args:
        moved: keys of flat configs and where they went.
    """
    notes: list[str] = []
    for path in overrides.removed:
        _remove(_moved(path, moved), data, positions)
    assigned = [(_moved(path, moved), value) for path, value in overrides.assigned]
    set_here = {path for path, _ in assigned}
    replaced = [(path, value) for path, value in assigned if _replaces(path, value, data)]
    for path, value in replaced:
        notes += _replace(path, value, data, positions, set_here)
    for path, value in assigned:
        if (path, value) not in replaced:
            _assign(path, value, data, positions)
    return notes


def _moved(path: Path, moved: Mapping[str, str]) -> Path:
    return tuple(moved[path[0]].split(".")) if len(path) == 1 and path[0] in moved else path


def _get(path: Path, data: Any) -> Any:
    for name in path:
        if isinstance(data, dict) and name in data:
            data = data[name]
        elif isinstance(data, list) and name.isdigit() and int(name) < len(data):
            data = data[int(name)]
        else:
            return None
    return data


def _replaces(path: Path, value: Any, data: Any) -> bool:
    """Whether the assignment puts another component in the place of one that is there."""
    owner = path[:-1] if path[-1] == "_component_" else path
    node = _get(owner, data)
    name = value.get("_component_") if isinstance(value, dict) and len(path) == len(owner) else value
    return isinstance(node, dict) and "_component_" in node and isinstance(name, str)


def _replace(path: Path, value: Any, data: Any, positions: dict[str, Place], set_here: set[Path]) -> list[str]:
    owner = path[:-1] if path[-1] == "_component_" else path
    node, key = _get(owner, data), ".".join(owner)
    name = value["_component_"] if isinstance(value, dict) else value
    if "." not in name and owner[-1] in _names.ROLES:
        name = _names.expand(owner[-1], name)
    node["_component_"] = name
    positions[f"{key}._component_"] = _HERE
    given = dict(value) if isinstance(value, dict) else {}
    given.pop("_component_", None)
    taken = _arguments_of(name)
    notes = []
    for argument in [a for a in node if a != "_component_"]:
        if taken is not None and argument not in taken and (*owner, argument) not in set_here and argument not in given:
            node.pop(argument)
            notes.append(f"{key}.{argument}: dropped, because {name} does not take it")
    for argument, v in given.items():
        _assign((*owner, argument), v, data, positions)
    return notes


def _arguments_of(component: str) -> set[str] | None:
    """Names of the arguments that a component takes; None when any goes or nobody can tell."""
    try:
        found = _static.define(_names.current(component))
    except _static.Absent:
        return None
    if found is None or found.signature is None:
        return None
    parameters = found.signature.parameters.values()
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}


def _assign(path: Path, value: Any, root: Any, positions: dict[str, Place]) -> None:
    data = root
    for i, name in enumerate(path[:-1]):
        data = _step(path[: i + 1], data, name, positions)
    old = _get(path[-1:], data)
    if isinstance(old, dict) and isinstance(value, dict):
        for k, v in value.items():  # what is there beside them keeps its place
            _assign((*path, k), v, root, positions)
        return
    if isinstance(data, list):
        data[_index(path, data)] = value
    else:
        data[path[-1]] = value
    key = ".".join(map(str, path))
    for known in [k for k in positions if k.startswith(key + ".")]:
        del positions[known]
    positions[key] = _HERE


def _step(path: Path, data: Any, name: str, positions: dict[str, Place]) -> Any:
    if isinstance(data, list):
        return data[_index(path, data)]
    if name not in data:
        positions[".".join(path)] = _HERE
    child = data.setdefault(name, {})
    if child is None:
        child = data[name] = {}
    if isinstance(child, str) and name in _names.ROLES:  # a component given by its name alone
        child = data[name] = {"_component_": child if "." in child else _names.expand(name, child)}
    if not isinstance(child, dict | list):
        raise ConfigError(f"command line: {'.'.join(path)} is a single value, so nothing can be set below it")
    return child


def _index(path: Path, data: list) -> int:
    if path[-1].isdigit() and int(path[-1]) < len(data):
        return int(path[-1])
    raise ConfigError(f"command line: {'.'.join(path)}: {'.'.join(path[:-1])} is a list of {len(data)}, counted from 0")


def _remove(path: Path, data: dict[str, Any], positions: dict[str, Place]) -> None:
    key = ".".join(path)
    parent = _get(path[:-1], data)
    if not isinstance(parent, dict) or path[-1] not in parent:
        names = parent if isinstance(parent, dict) else []
        raise ConfigError(f"command line: ~{key}: the config has no such key.{near(path[-1], names)}")
    node = parent[path[-1]]
    if isinstance(node, dict) and "_component_" in node and path[0] not in optional_keys(FinetuneConfig):
        raise ConfigError(
            f"command line: ~{key}: a run needs this component; replace it with {key}=some.other.component"
        )
    del parent[path[-1]]
    for known in [k for k in positions if k == key or k.startswith(key + ".")]:
        del positions[known]
    if not parent and len(path) > 1:
        _remove(path[:-1], data, positions)
