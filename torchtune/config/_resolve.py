"""A dotted path -> the function or class, and a config node -> what it makes; only what ``_allow`` lets through."""

import functools
import inspect
import os
import sys
import types
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from torchtune.config import _allow, _source, _static
from torchtune.config._annotations import HANDED_ON, signature_of, value_faults
from torchtune.config._load import place_in
from torchtune.config._names import current
from torchtune.config._problem import near
from torchtune.config._redact import redact_text
from torchtune.errors import ConfigError, MissingDependency


def instantiate(
    config: dict[str, Any] | DictConfig | None, *args: Any, caller_globals: dict[str, Any] | None = None, **kwargs: Any
) -> Any:
    """What the component of a config node makes; nested components, also in lists, are made first.

    Args:
        args: passed to the component by position, before the node's own arguments.
        caller_globals: where a ``_component_`` without dots is looked up; by default the calling module.
        kwargs: passed by name; they win over the node's own arguments.

    Raises:
        ConfigError: there is no ``_component_``, it may not be used, or it does not take these arguments.
    """
    if config is None:
        return None
    if not isinstance(config, Mapping | DictConfig) or "_component_" not in config:
        raise ConfigError(f"{_where(config)}a component is a mapping with `_component_`, found {_show(config)}")
    scope = sys._getframe(1).f_globals if caller_globals is None else caller_globals
    return _make(config, _plain(config), scope, args, {k: _plain(v) for k, v in kwargs.items()})


def get_component(path: str, caller_globals: Mapping[str, Any] | None = None, allow: Iterable[str] = ()) -> Any:
    """The function or class that a dotted path names.

    Raises:
        ConfigError: there is none, or a config may not use it.
        MissingDependency: it belongs to a package that is not installed.
    """
    path = current(path)
    if "." not in path:
        return _from_scope(path, caller_globals or {})
    if not all(p.isidentifier() for p in path.split(".")):
        raise ConfigError(f"{path!r} is not a dotted path such as torch.optim.AdamW")
    if not _allow.may_import(path, allow):
        raise ConfigError(_allow.refusal(path))
    _refuse_by_source(path, allow)
    found = _import(path, allow)
    target = found.func if isinstance(found, functools.partial) else found
    module, name, kind = _identity(target, path)
    if not _allow.may_use(module, name, kind, allow):
        raise ConfigError(_allow.refusal(path, f"{module}.{name}" if kind != "other" else f"a {type(found).__name__}"))
    return found


def _from_scope(name: str, scope: Mapping[str, Any]) -> Any:
    """A function or class that the calling script itself defines."""
    found = scope.get(name)
    if isinstance(found, type | types.FunctionType):
        own = found.__module__ == scope.get("__name__")
        if own or _allow.may_use(found.__module__, found.__qualname__, _kind(found)):
            return found
        raise ConfigError(_allow.refusal(name, f"{found.__module__}.{found.__qualname__}"))
    raise ConfigError(f"{name!r} is not a dotted path such as torch.optim.AdamW, nor defined in the running script")


def _refuse_by_source(path: str, allow: Iterable[str]) -> None:
    """Judges what the sources tell before anything is imported, since importing a module runs it."""
    try:
        found = _static.define(path)
    except _static.Absent:
        return  # names made at run time are seen only there
    if found is None:
        return
    if found.kind == "module":
        raise ConfigError(f"{path} is a module; name a function or class in it")
    if found.kind == "other" and _allow.may_import(found.module, allow):
        return
    if not _allow.may_use(found.module, found.name, found.kind, allow):
        raise ConfigError(_allow.refusal(path, found.path))


def _import(path: str, allow: Iterable[str]) -> Any:
    parts = path.split(".")
    size = _static.module_length(parts)
    if _allow.local_root(parts[0]) is not None and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found: Any = import_module(".".join(parts[:size]))
    except ModuleNotFoundError as e:
        if e.name and (e.name == parts[0] or path.startswith(e.name + ".")):
            if e.name == parts[0]:
                raise MissingDependency(f"{path} needs the package {parts[0]!r}: pip install {parts[0]}") from None
            raise ConfigError(f"there is no module {e.name}") from None
        raise
    for i in range(size, len(parts)):
        if isinstance(found, types.ModuleType) and not _allow.may_import(found.__name__, allow):
            raise ConfigError(_allow.refusal(path, found.__name__))
        try:
            found = getattr(found, parts[i])
        except AttributeError:
            found = _sub_module(found, parts, i)
    return found


def _sub_module(found: Any, parts: list[str], i: int) -> Any:
    name = ".".join(parts[: i + 1])
    if isinstance(found, types.ModuleType) and _source.module_file(name) is not None:
        return import_module(name)
    owner = ".".join(parts[:i])
    raise ConfigError(f"{owner} has no {parts[i]!r}.{near(parts[i], dir(found))}")


def _identity(found: Any, path: str) -> tuple[str, str, str]:
    """(module, qualified name, kind) of where an object was defined."""
    kind = _kind(found)
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if kind == "other" or not isinstance(module, str | None) or not isinstance(name, str) or "<lambda>" in name:
        return path.rpartition(".")[0], path.rpartition(".")[2], "other"
    if isinstance(module, str) and module.startswith("torch._C._nn"):  # torch.nn.functional's built-in functions
        module = "torch.nn.functional"
    return module or "builtins", name.replace("<locals>.", ""), kind


def _kind(found: Any) -> str:
    if isinstance(found, type):
        return "class"
    plain = isinstance(found, types.FunctionType | types.BuiltinFunctionType | types.MethodType)
    owner = getattr(found, "__self__", None)  # a method of an instance is a handle on that instance: refused
    return "function" if plain and (owner is None or isinstance(owner, type | types.ModuleType)) else "other"


def _make(node: Any, plain: dict[str, Any], scope: Mapping[str, Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    path = plain.pop("_component_")
    if not isinstance(path, str):
        raise ConfigError(f"{_where(node, '_component_')}`_component_` must be a dotted path, found {path!r}")
    try:
        component = get_component(path, scope)
    except ConfigError as e:
        raise type(e)(f"{_where(node, '_component_')}{e}") from None
    own = {k: _nested(_child(node, k), v, scope) for k, v in plain.items()}
    _bind(component, path, node, args, own, kwargs)
    try:
        return component(*args, **own | kwargs)
    except (ValueError, TypeError, IndexError) as e:  # such as betas=[0.9]
        if not component.__module__.startswith("torch.optim"):  # elsewhere it may as well be a bug
            raise
        raise ConfigError(f"{_where(node)}{path}: {e}") from e


def _nested(node: Any, value: Any, scope: Mapping[str, Any]) -> Any:
    """The value with every mapping that has a ``_component_`` replaced by what it makes."""
    if isinstance(value, dict):
        if "_component_" in value:
            return _make(node, dict(value), scope, (), {})
        return {k: _nested(_child(node, k), v, scope) for k, v in value.items()}
    if isinstance(value, list):
        return [_nested(_child(node, i), v, scope) for i, v in enumerate(value)]
    return value


def _child(node: Any, key: Any) -> Any:
    return node._get_node(key) if isinstance(node, DictConfig | ListConfig) and not node._is_interpolation() else None


def _bind(component: Any, path: str, node: Any, args: tuple, own: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises: ConfigError: the component does not take these arguments; errors raised inside it are its own."""
    try:
        signature = signature_of(component)
    except (ValueError, TypeError):  # some C functions do not say
        return
    faults = argument_faults(signature, path, len(args), own | given) + value_faults(signature, own)
    for key, message in faults:
        raise ConfigError(f"{_where(node, key)}{redact_text(message)}")


def argument_faults(
    signature: inspect.Signature, path: str, num_args: int, names: Iterable[str], offered: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """(argument, message) for each name that a signature does not take or that it wants and does not get.

    Args:
        num_args: how many arguments come by position.
        offered: names that the recipe passes where they are taken.
    """
    names, parameters = list(names), list(signature.parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    handed = {p.name for p in positional[:num_args]}
    usable = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    own = [p.name for p in parameters if p.name in usable and p.default is not HANDED_ON]
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    out = []
    for name in names:
        if name in handed:
            out.append((name, f"{path} gets {name!r} from the recipe; remove it here"))
        elif name not in usable and not anything:
            takes = ", ".join(p for p in usable if p not in handed) if len(usable) < 8 else ""
            known = f" It takes: {takes}." if takes else " It takes no arguments." if not usable - handed else ""
            out.append((name, f"{path} does not take {name!r}.{near(name, own) or near(name, usable) or known}"))
    if num_args > len(positional) and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        out.append(("_component_", f"{path} takes {len(positional)} arguments by position and is given {num_args}"))
    for p in parameters:
        needed = p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if needed and p.name not in handed and p.name not in names and p.name not in offered:
            out.append(("_component_", f"{path} needs the argument {p.name!r}"))
    return out


def _plain(value: Any) -> Any:
    if not isinstance(value, DictConfig | ListConfig):
        if isinstance(value, dict):
            return {k: _plain(v) for k, v in value.items()}
        return [_plain(v) for v in value] if isinstance(value, list) else value
    try:
        return OmegaConf.to_container(value, resolve=True)
    except OmegaConfBaseException as e:
        raise ConfigError(f"{_where(value)}{first_line(e)}") from None


def first_line(e: Exception) -> str:
    """OmegaConf's message without its lines of context."""
    return str(e).partition("\n")[0]


def _where(node: Any, key: str = "") -> str:
    if not isinstance(node, DictConfig):
        return ""
    full = node._get_full_key(key or None)
    place = place_in(node, key)
    return f"{place}: {full}: " if place else f"{full}: " if full else ""


def _show(value: Any) -> str:
    if isinstance(value, Mapping | DictConfig):
        return f"a mapping of {', '.join(map(str, value))}"
    return redact_text(repr(value))
