"""Every name, argument, default and member that torchtune 0.6.1 or its main branch shows to users is here, or listed.

- ``documented.json``: the facts. ``signature`` is the main branch's form, ``signature_0_6_1`` the release's where it is
  another; a default of ``...`` is not a plain value.
- ``later.json``: names that later work brings, by topic; ``"*"`` is all of a module.
- ``differs.json``: arguments that differ on purpose, with the reason.
"""

import ast
import importlib
import inspect
import json
import re
import runpy
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
DOCUMENTED, LATER, DIFFERS = (
    json.loads((HERE / f"{name}.json").read_text()) for name in ("documented", "later", "differs")
)
TOPIC_OF = {
    f"{module}.{name}": topic
    for topic, modules in LATER.items()
    for module, names in modules.items()
    for name in (DOCUMENTED[module] if names == "*" else names)
}
NAMES = [f"{module}.{name}" for module, names in DOCUMENTED.items() for name in names]
Problems = Iterator[tuple[str, str]]


def facts(path: str) -> dict[str, Any]:
    module, _, name = path.rpartition(".")
    return DOCUMENTED[module][name]


def load(path: str) -> Any:
    """What a dotted path names.

    Raises:
        AttributeError, ModuleNotFoundError: nothing.
    """
    module, _, name = path.rpartition(".")
    loaded = importlib.import_module(module)
    if not hasattr(loaded, name):
        raise AttributeError(f"{module} has no {name}")
    return getattr(loaded, name)


@pytest.mark.parametrize("path", [name for name in NAMES if name not in TOPIC_OF])
def test_exists_as_documented(path: str) -> None:
    thing, expected = load(path), facts(path)
    found = dict(differences(thing, expected))
    allowed = DIFFERS.get(path, {})
    unexpected = [f"{path}: {text}" for key, text in found.items() if key not in allowed]
    assert not unexpected, "\n".join(unexpected)
    assert set(allowed) <= set(found), f"{path} no longer differs in {set(allowed) - set(found)}: mend differs.json"


@pytest.mark.parametrize("path", TOPIC_OF)
def test_a_name_for_later_is_not_there_yet(path: str) -> None:
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        load(path)
        pytest.fail(f"{path} exists: take it off later.json ({TOPIC_OF[path]}) and docs/compatibility.md")


def test_the_lists_name_only_documented_things() -> None:
    listed = [path for modules in LATER.values() for path in paths(modules)]
    assert len(listed) == len(set(listed)), "a name stands in two topics"
    assert set(listed) <= set(NAMES) and set(DIFFERS) <= set(NAMES) - set(listed)


def paths(modules: dict[str, Any]) -> list[str]:
    return [f"{m}.{n}" for m, names in modules.items() for n in (DOCUMENTED[m] if names == "*" else names)]


def test_the_docs_say_the_same() -> None:
    script = runpy.run_path(str(HERE.parents[1] / "scripts" / "compatibility.py"))
    page = script["PAGE"].read_text()
    assert script["later"](LATER) in page and script["differs"](DIFFERS) in page
    assert script["render"](page) == page, "run python scripts/compatibility.py"


def differences(thing: Any, expected: dict[str, Any]) -> Problems:
    """What a caller of ``thing`` would miss: (argument or member, sentence)."""
    kind = expected["kind"]
    if kind == "alias":
        if thing is not load(expected["of"]):
            yield "alias", f"is not {expected['of']}"
    elif kind == "module":
        if not isinstance(thing, ModuleType):
            yield "kind", "is no module"
    elif kind == "value":
        if "value" in expected and json.loads(json.dumps(thing, default=list)) != expected["value"]:
            yield "value", f"is {thing!r}, not {expected['value']!r}"
    elif kind == "enum":
        yield from enum_differences(thing, expected["values"])
    elif kind in ("def", "class", "partial", "dataclass", "namedtuple", "typeddict"):
        yield from signature_differences(inspect.signature(thing), expected)
    yield from member_differences(thing, expected.get("members", {}))


def enum_differences(thing: type[Enum], values: dict[str, Any]) -> Problems:
    for name, value in values.items():
        if name not in thing.__members__:
            yield name, f"has no member {name}"
        elif json.loads(json.dumps(thing[name].value)) != value:
            yield name, f"{name} is {thing[name].value!r}, not {value!r}"


def member_differences(owner: type, members: dict[str, Any]) -> Problems:
    for name, expected in members.items():
        if expected in ("property", "attribute"):
            if not has_attribute(owner, name):
                yield name, f"has no attribute {name}"
            continue
        member = inspect.getattr_static(owner, name, None)
        if member is None or isinstance(member, property | cached_property):
            yield name, f"has no method {name}"
            continue
        signature = inspect.signature(getattr(member, "__func__", member))
        if not isinstance(member, staticmethod):
            signature = signature.replace(parameters=list(signature.parameters.values())[1:])
        expected = {"signature": expected} if isinstance(expected, str) else expected
        for key, text in signature_differences(signature, expected):
            yield f"{name}.{key}", f"{name}: {text}"


def has_attribute(owner: type, name: str) -> bool:
    """On the class, declared, or set on self."""
    if hasattr(owner, name) or any(name in vars(c).get("__annotations__", {}) for c in owner.__mro__):
        return True
    ours = [c for c in owner.__mro__ if c.__module__.startswith("torchtune")]
    return any(re.search(rf"self\.{name}\b[^=\n]*=[^=]", inspect.getsource(c)) for c in ours)


def signature_differences(actual: inspect.Signature, expected: dict[str, Any]) -> Problems:
    wanted = parse(expected["signature"])
    older = parse(expected["signature_0_6_1"]) if "signature_0_6_1" in expected else {}
    for name, parameter in {**older, **wanted}.items():
        yield from parameter_differences(name, parameter, actual)
    yield from order_differences(wanted, actual)
    for name, parameter in actual.parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if needed and name not in wanted and name not in older:
            yield name, f"needs {name}, which torchtune's callers do not give"


def parameter_differences(name: str, wanted: inspect.Parameter, actual: inspect.Signature) -> Problems:
    has_rest = any(p.kind is p.VAR_KEYWORD for p in actual.parameters.values())
    if wanted.kind is wanted.VAR_POSITIONAL:
        return
    if wanted.kind is wanted.VAR_KEYWORD:
        if not has_rest:
            yield name, f"takes no **{name}"
        return
    if name not in actual.parameters:
        yield name, f"has no argument {name}"
        return
    default = actual.parameters[name].default
    if wanted.default is ...:
        if default is wanted.empty:
            yield name, f"{name} must be given"
    elif wanted.default is wanted.empty:
        return  # whoever gives it is understood
    elif default is wanted.empty or plain(default) != plain(wanted.default):
        yield name, f"{name} is {default!r} by default, not {wanted.default!r}"


def order_differences(wanted: dict[str, inspect.Parameter], actual: inspect.Signature) -> Problems:
    by_place = [p.name for p in wanted.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    ours = [p.name for p in actual.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for place, name in enumerate(by_place):
        if name in actual.parameters and ours[place : place + 1] != [name]:
            yield name, f"{name} is not argument number {place + 1}"
            return


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value.value if isinstance(value, Enum) else value


def parse(signature: str) -> dict[str, inspect.Parameter]:
    """``"(a, *, b=1)"`` -> its parameters by name."""
    arguments = ast.parse(f"def f{signature}: pass").body[0].args
    names = [a.arg for a in arguments.args]
    defaults = dict(zip(reversed(names), reversed(arguments.defaults)))
    defaults |= {a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults) if d is not None}
    groups = [
        (arguments.args, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        ([arguments.vararg] if arguments.vararg else [], inspect.Parameter.VAR_POSITIONAL),
        (arguments.kwonlyargs, inspect.Parameter.KEYWORD_ONLY),
        ([arguments.kwarg] if arguments.kwarg else [], inspect.Parameter.VAR_KEYWORD),
    ]
    return {
        a.arg: inspect.Parameter(
            a.arg, kind, default=ast.literal_eval(defaults[a.arg]) if a.arg in defaults else inspect.Parameter.empty
        )
        for group, kind in groups
        for a in group
    }
