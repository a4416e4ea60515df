"""Types of config keys, and the check of one value against its type."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from torchtune.config._problem import near


class Component(dict):
    """A mapping with ``_component_``: the dotted path of a function or class, and its arguments."""


class Dotted(str):
    """The dotted path of a function, as text."""


@dataclass(frozen=True)
class AtLeast:
    """A number that is not below ``bound``."""

    bound: float

    def fault(self, value: float) -> str | None:
        return None if value >= self.bound else f"at least {self.bound}"


@dataclass(frozen=True)
class Within:
    """A number from ``lowest`` to ``highest``; more has no use and would exhaust the machine."""

    lowest: int
    highest: int

    def fault(self, value: float) -> str | None:
        return None if self.lowest <= value <= self.highest else f"{self.lowest} to {self.highest}"


@dataclass(frozen=True)
class Filled:
    """A text that is not empty, as it is when a variable of the shell is not set."""

    def fault(self, value: str) -> str | None:
        return None if value.strip() else "at least one letter"


@dataclass(frozen=True)
class Over:
    """A number above ``bound``."""

    bound: float

    def fault(self, value: float) -> str | None:
        return None if value > self.bound else f"more than {self.bound}"


@dataclass(frozen=True)
class Share:
    """A part of a whole, but not all of it."""

    def fault(self, value: float) -> str | None:
        return None if 0 <= value < 1 else "at least 0 and less than 1"


@dataclass(frozen=True)
class Portion:
    """A part of a whole, or all of it, but not nothing."""

    def fault(self, value: float) -> str | None:
        return None if 0 < value <= 1 else "more than 0 and at most 1"


Count = Annotated[int, AtLeast(1)]
Threads = Annotated[int, Within(1, 1024)]


def inert(default: Any, why: str) -> Any:
    """A key that is taken for compatibility and changes nothing; ``why`` says why not."""
    return field(default=default, metadata={"inert": why})


def later(default: Any, *off: Any, feature: str, instead: str | None = None) -> Any:
    """A key of a feature that does not exist yet; only the values ``off`` are taken."""
    return field(default=default, metadata={"off": off, "feature": feature, "instead": instead})


def check_value(key: str, value: Any, kind: Any) -> tuple[Any, str | None]:
    """(the value as its type wants it, as a float for an int where one is wanted; what is wrong with it, or None)."""
    faults = []
    for option in _options(kind):
        found, fault = _check_one(value, option)
        if fault is None:
            return found, None
        faults.append(fault)
    wanted = " or ".join(dict.fromkeys(faults))
    return value, f"{key} must be {wanted}, found {_show(value)}{_hint(value, kind)}"


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _check_one(value: Any, kind: Any) -> tuple[Any, str | None]:
    """(value, None) when it fits, else (value, what would fit)."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value, None
    if origin is Annotated:
        found, fault = _check_one(value, args[0])
        limit = None if fault else args[1].fault(found)
        return found, fault or (limit and f"{_NAMES[args[0]]} of {limit}") or None
    if origin is Literal:
        same = [a for a in args if type(a) is type(value) and a == value]
        return value, None if same else "one of " + ", ".join(str(a) for a in args)
    if origin is list:
        return _check_list(value, args[0])
    if kind is Component:
        fits = isinstance(value, Mapping) and "_component_" in value
        return value, None if fits else "a mapping with _component_"
    if origin is not None or kind is Mapping:
        return value, None if isinstance(value, Mapping) else "a mapping"
    if kind in (type(None), None):
        return value, None if value is None else "null"
    if kind is float and (type(value) is int or value == "inf"):  # `clip_grad_norm: inf` is torchtune's; YAML has .inf
        return float(value), None
    fits = type(value) is (str if kind is Dotted else kind) and not (kind is float and value != value)
    return value, None if fits else _NAMES[kind]


_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    list: "a list",
    Dotted: "a dotted path",
    Callable: "a function",
}


def _check_list(value: Any, kind: Any) -> tuple[Any, str | None]:
    if not isinstance(value, list | tuple) or not value:
        return value, f"a list of {'components' if kind is Component else 'values'}"
    for item in value:
        _, fault = _check_one(item, kind)
        if fault:
            return value, f"a list in which each is {fault}"
    return value, None


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if value is None:
        return "null"
    return repr(value) if len(repr(value)) < 80 else f"{repr(value)[:77]}..."


def _hint(value: Any, kind: Any) -> str:
    if Callable in _options(kind):
        return ". A config cannot hold one: write a builder in a Python file of your own that does, see docs/data.md"
    if not isinstance(value, str):
        return ""
    if bool in _options(kind) and value in ("True", "False"):
        return " (text; leave out the quotation marks)"
    options = [a for o in _options(kind) for a in ((get_args(o)) if get_origin(o) is Literal else ())]
    if bool in _options(kind):
        options += ["True", "False"]
    nullable = type(None) in _options(kind)
    if value in ("None", "none", "NONE") and nullable:
        return " (text; in YAML nothing is spelled null)"
    return near(value, [str(o) for o in options]).replace(" Did", ". Did")


def default_of(f: dataclasses.Field) -> Any:
    """A field's default, made anew; None for one that has none."""
    if f.default_factory is not MISSING:
        return f.default_factory()
    return None if f.default is MISSING else f.default


def optional_keys(schema: type) -> set[str]:
    """Keys whose value may be null."""
    return {f.name for f in dataclasses.fields(schema) if type(None) in _options(f.type)}


def component_keys(schema: type) -> set[str]:
    """Keys that hold a component or a list of them."""
    return {f.name for f in dataclasses.fields(schema) if any(_is_component(o) for o in _options(f.type))}


def _is_component(kind: Any) -> bool:
    return kind is Component or (get_origin(kind) is list and get_args(kind)[0] is Component)


def yaml_of(value: Any) -> str:
    """A plain value as one writes it in YAML."""
    return "null" if value is None else str(value)
