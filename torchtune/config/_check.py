"""Every fault of a config at once: keys, types, combinations, components and their arguments; imports no component."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from torchtune.config import _allow, _source, _static
from torchtune.config._adapters import serving_notes
from torchtune.config._annotations import value_faults
from torchtune.config._keys import Dotted
from torchtune.config._load import LoadedConfig
from torchtune.config._names import ROLES, Role, current
from torchtune.config._problem import Problem, near, problem
from torchtune.config._resolve import argument_faults, first_line
from torchtune.config._typed import Fault, check_keys, unused_keys

_NO_ROLE = Role()


def check(loaded: LoadedConfig, recipe_schema: type | None = None, allow: Iterable[str] = ()) -> list[Problem]:
    """All faults of a config, in the order of the file; empty when there is none.

    Args:
        recipe_schema: the dataclass of the recipe's keys; None checks components only.
        allow: packages beyond the usual ones whose components may be named.
    """
    problems = list(loaded.problems)
    plain, faults = _resolved(loaded.cfg)
    if recipe_schema is not None:
        raw = OmegaConf.to_container(loaded.cfg)
        kept = {k: v for k, v in plain.items() if k in raw}
        _, key_faults, _ = check_keys(recipe_schema, kept, loaded.free)
        broken = {k for k, _ in faults}
        faults += [(k, _hinted(k, m, plain)) for k, m in key_faults if k not in broken]
        faults += _dotted_faults(recipe_schema, plain, allow)
        faults += _adapter_faults(plain)
    unused = set() if recipe_schema is None else unused_keys(recipe_schema)
    known = {k for k, _ in faults}
    for key, message in component_faults(plain, allow):
        unsafe = _allow.FLAG in message  # what is never made need only be harmless
        if unsafe or (key not in known and key.partition(".")[0] not in unused):
            faults.append((key, message))
    reported = {(p.key, p.message) for p in problems}
    told = {p.key for p in problems}
    for key, message in dict.fromkeys(faults):
        if (key, message) not in reported and key.removesuffix("._component_") not in told:
            problems.append(problem(key, message, loaded.positions, loaded.path))
    return sorted(problems, key=lambda p: (p.line is None, p.line or 0))


def notes(loaded: LoadedConfig, recipe_schema: type) -> list[str]:
    """What was rewritten on loading, which keys are accepted without effect, and what vLLM does not serve."""
    plain, _ = _resolved(loaded.cfg)
    return loaded.notes + check_keys(recipe_schema, plain, loaded.free)[2] + serving_notes(plain)


def _resolved(cfg: DictConfig) -> tuple[dict[str, Any], list[Fault]]:
    """Plain values, key by key, so that one bad interpolation does not hide the other faults."""
    plain: dict[str, Any] = {}
    faults: list[Fault] = []
    for key in cfg:
        try:
            value = cfg[key]
            plain[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as e:
            full = (e.full_key or key).replace("[", ".").replace("]", "")
            hint = near(m[1], cfg) if (m := re.search(r"key '(\w+)", first_line(e))) else ""
            faults.append((full, f"{full}: {first_line(e)}.{hint}"))
    return plain, faults


def _hinted(key: str, message: str, plain: Mapping[str, Any]) -> str:
    """Adds to an unknown key the component above which takes an argument of that name, or of one like it."""
    if "is not a key" not in message:
        return message
    places: dict[str, str] = {}
    for owner, node in plain.items():
        if isinstance(node, Mapping) and isinstance(path := node.get("_component_"), str):
            found = _definition(path)
            names = found.signature.parameters if found and found.signature else {}
            if key in names:
                return f"{message} {path} takes {key!r}; if it is meant for that, write it as {owner}.{key}."
            places |= {name: f"{owner}.{name}" for name in names}
    alike = difflib.get_close_matches(key, places, 1) if "Did you mean" not in message else []
    return f"{message} Did you mean {places[alike[0]]!r}?" if alike else message


def _definition(path: str) -> _static.Definition | None:
    try:
        return _static.define(current(path))
    except _static.Absent:
        return None


def _dotted_faults(schema: type, plain: Mapping[str, Any], allow: Iterable[str]) -> Iterator[Fault]:
    for f in dataclasses.fields(schema):
        if f.type is Dotted and isinstance(path := plain.get(f.name), str):
            message, _ = _judge(path, allow)
            if message:
                yield f.name, f"{f.name}: {message}"


def _adapter_faults(plain: Mapping[str, Any]) -> Iterator[Fault]:
    """Adapters where the recipe or another key wants none, or the other way round, as far as the builder is ours."""
    node = plain.get("model")
    path = current(str(node.get("_component_"))) if isinstance(node, Mapping) else ""
    found = _definition(path) if path.startswith("torchtune.") else None
    if found is None or found.signature is None:
        return
    module, _, name = path.rpartition(".")
    method, _, rest = str(plain.get("recipe")).partition("_")
    adapted = "lora_attn_modules" in found.signature.parameters
    if adapted and method == "full":
        instead = _or_any(f"{module}.{name.partition('lora_')[2]}", "a builder without adapters")
        yield "model._component_", f"model: {path} trains only adapters: use {instead}, or the recipe lora_{rest}"
    elif not adapted and method == "lora":
        instead = _or_any(f"{module}.lora_{name}", "a builder that takes lora_attn_modules")
        yield "model._component_", f"model: {path} trains no adapters: use {instead}, or the recipe full_{rest}"
    elif not adapted and (named := _named_adapter(plain)):
        key = "checkpointer.adapter_checkpoint"
        yield key, f"{key} is {named}, and {path} has no adapters; take a builder that has, or leave the key out"
    elif not adapted and plain.get("save_adapter_weights_only") is True:
        key = "save_adapter_weights_only"
        yield key, f"{key} leaves out all but adapters, and {path} trains none; set it to False"


def _named_adapter(plain: Mapping[str, Any]) -> str | None:
    """The adapter to begin with; torchtune's name of the file that a resumed run reads means nothing by itself."""
    node = plain.get("checkpointer")
    named = node.get("adapter_checkpoint") if isinstance(node, Mapping) else None
    return named if isinstance(named, str) and named != "adapter_model.pt" else None


def _or_any(path: str, otherwise: str) -> str:
    return path if _definition(path) else otherwise


def component_faults(value: Any, allow: Iterable[str] = (), key: str = "") -> list[Fault]:
    """Faults of every component in a plain config, nested ones included."""
    out: list[Fault] = []
    if isinstance(value, Mapping):
        if "_component_" in value:
            out += _one_component(key, value, allow)
        for name, inner in value.items():
            if name == "prompt_template" and isinstance(inner, str) and (message := _judge(inner, allow)[0]):
                out.append((f"{key}.{name}", f"{key}.{name}: {message}"))
            out += component_faults(inner, allow, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            out += component_faults(inner, allow, f"{key}.{i}")
    return out


def _one_component(key: str, node: Mapping[str, Any], allow: Iterable[str]) -> Iterator[Fault]:
    path = node["_component_"]
    at = f"{key}._component_"
    if not isinstance(path, str):
        yield at, f"{at} must be a dotted path, found {path!r}"
        return
    message, found = _judge(path, allow)
    if message:
        yield at, f"{key}: {message}"
    elif found is not None and found.signature is not None:
        role = _role(key)
        own = role.of_entry if key.rpartition(".")[2].isdigit() else ()
        names = [n for n in node if n != "_component_" and n not in own]
        faults = argument_faults(found.signature, path, len(role.handed), names, role.words)
        yield from ((f"{key}.{argument}", f"{key}: {m}") for argument, m in faults)
        yield from ((f"{key}.{argument}", m) for argument, m in value_faults(found.signature, node, key))


def _role(key: str) -> Role:
    """The role of a top-level component or of one in a list there; a nested component is handed nothing."""
    top, _, rest = key.partition(".")
    return ROLES.get(top, _NO_ROLE) if not rest or rest.isdigit() else _NO_ROLE


def _judge(written: str, allow: Iterable[str]) -> tuple[str | None, _static.Definition | None]:
    """(what is wrong with a component's path, its definition if the sources tell)."""
    path = current(written)
    if not all(p.isidentifier() for p in path.split(".")):
        return f"{written!r} is not a dotted path such as torch.optim.AdamW", None
    if "." not in path:
        return None, None  # defined in the script that runs it, which is not at hand here
    if not _allow.may_import(path, allow):
        return _allow.refusal(written), None
    try:
        found = _static.define(path)
    except _static.Absent as e:
        return f"{e.module} has no {e.name!r}.{near(e.name, e.names)}", None
    if found is None:
        return None, None
    if found.kind == "module":
        hint = near(path.rpartition(".")[2], _source.public_names(found.module))
        return f"{written} is a module; name a function or class in it.{hint}", None
    unclear = found.kind == "other" and _allow.may_import(found.module, allow) and "." not in found.name
    if not unclear and not _allow.may_use(found.module, found.name, found.kind, allow):
        return _allow.refusal(written, found.path), None
    return None, found
