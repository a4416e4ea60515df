"""Where a dotted name is defined and what arguments it takes, read from source files; nothing is imported or run."""

import ast
import inspect
from dataclasses import dataclass
from typing import Any, Literal

from torchtune.config import _allow
from torchtune.config._annotations import annotation_of, handed_on, unpacked
from torchtune.config._source import bindings, is_true, last_name, module_file, name_chain, sub_modules

Kind = Literal["class", "function", "module", "other"]
_P = inspect.Parameter
# What makes a builder of a builder -> the function whose arguments, but for the first, come before the given one's.
_EXTENDING = {"torchtune.models._adapters.with_lora": "torchtune.models._adapters.lora"}
GIVEN = object()  # stands for a default value that is no constant, which is never evaluated


@dataclass(frozen=True)
class Definition:
    """What a dotted name turned out to be; ``signature`` is None when the source does not tell it for certain."""

    module: str
    name: str
    kind: Kind
    signature: inspect.Signature | None = None

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


class Absent(LookupError):
    """A module that can be read has no such name. ``names`` are those that it has."""

    def __init__(self, module: str, name: str, names: list[str]) -> None:
        super().__init__(f"{module} has no {name!r}")
        self.module, self.name, self.names = module, name, names


def define(dotted: str) -> Definition | None:
    """The definition behind a dotted name, or None when reading sources cannot tell.

    Raises:
        Absent: the module is there, all its names are known, and this is not one of them.
    """
    parts = dotted.split(".")
    if module_file(parts[0]) is None:
        return None
    size = module_length(parts)
    return _find(".".join(parts[:size]), tuple(parts[size:]), frozenset())


def module_length(parts: list[str]) -> int:
    """How many leading parts are a module; the last part is an attribute where it can be either."""
    size = 1
    while size < len(parts) - 1 and module_file(".".join(parts[: size + 1])) is not None:
        size += 1
    return size


def _find(module: str, names: tuple[str, ...], seen: frozenset) -> Definition | None:
    if not names:
        return Definition(module, "", "module")
    file = module_file(module)
    step = (module, names)
    if file is None or step in seen:
        return None
    seen = seen | {step}
    name, rest = names[0], names[1:]
    bound = bindings(file, module)
    if name in bound:
        return _follow(module, name, bound[name], rest, seen)
    if module_file(f"{module}.{name}") is not None:
        return _find(f"{module}.{name}", rest, seen)
    return _among_stars(module, names, bound, seen)


def _among_stars(module: str, names: tuple[str, ...], bound: dict, seen: frozenset) -> Definition | None:
    # our own top package makes names on request too, but only those of sub-packages, which are files
    lazy = "__getattr__" in bound and module != "torchtune"
    complete = not lazy and "*dynamic" not in bound and module_file(module).is_file()
    known = list(bound)
    for source in bound.get("*", []):
        try:
            found = _find(source, names, seen)
        except Absent as e:
            known += e.names
            continue
        if found is not None:
            return found
        complete = False
    if not complete:
        return None
    raise Absent(module, names[0], [n for n in known if not n.startswith("*")] + sub_modules(module))


def _follow(module: str, name: str, what: object, rest: tuple[str, ...], seen: frozenset) -> Definition | None:
    match what:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return Definition(module, name, "function", _function(module, what, seen)) if not rest else None
        case ast.ClassDef():
            if rest:
                return _member(module, what, rest, seen)
            return Definition(module, name, "class", _class(module, what, seen))
        case ("from", source, original):
            if source == module and original == name:  # `from . import name` in a package means the sub-module
                return _find(f"{module}.{name}", rest, seen)
            return _cross(source, (original, *rest), seen)
        case ("module", source):
            return _cross(source, rest, seen)
        case ast.expr() if (chain := name_chain(what)) is not None and chain != (name,):
            return _find(module, (*chain, *rest), seen)
        case ast.Call() if not rest and (made := _partial(module, what, seen) or _extended(module, what, seen)):
            return Definition(module, name, "function", made)
    return Definition(module, ".".join((name, *rest)), "other")


def _cross(source: str, names: tuple[str, ...], seen: frozenset) -> Definition | None:
    """Goes on in another module, but only where that module's own objects could be allowed."""
    top = source.partition(".")[0]
    readable = _allow.local_root(top) or top in {a.partition(".")[0] for a in _allow.ALLOWED}
    if not readable or module_file(source) is None:
        return Definition(source, ".".join(names), "other")
    return _find(source, names, seen)


def _member(module: str, node: ast.ClassDef, rest: tuple[str, ...], seen: frozenset) -> Definition | None:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and (item.name,) == rest:
            bound = {"classmethod", "staticmethod"} & {last_name(d) for d in item.decorator_list}
            skip = 0 if "staticmethod" in bound else 1
            signature = _function(module, item, seen, skip, trusted=True) if bound else None
            return Definition(module, f"{node.name}.{item.name}", "function" if bound else "other", signature)
    return None


# -- signatures ------------------------------------------------------------------------------------

_HARMLESS = {"deprecated", "lru_cache", "cache", "contextmanager", "no_grad", "inference_mode", "wraps", "final",
             "runtime_checkable", "record", "override", "skip_init"}  # fmt: skip


def _default(node: ast.expr | None) -> Any:
    """A constant that stands there as such; anything else is not evaluated."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None) else GIVEN


def _function(
    module: str, node: ast.FunctionDef, seen: frozenset, skip: int = 0, trusted: bool = False
) -> inspect.Signature | None:
    if not trusted and not {last_name(d) for d in node.decorator_list} <= _HARMLESS:
        return None
    a, names = node.args, bindings(module_file(module), module)
    plain = [*a.posonlyargs, *a.args]
    bare = len(plain) - len(a.defaults)
    out = [
        _P(arg.arg, _P.POSITIONAL_ONLY if i < len(a.posonlyargs) else _P.POSITIONAL_OR_KEYWORD,
           default=_P.empty if i < bare else _default(a.defaults[i - bare]),
           annotation=annotation_of(arg.annotation, names))
        for i, arg in enumerate(plain)
    ][skip:]  # fmt: skip
    out += [_P(a.vararg.arg, _P.VAR_POSITIONAL)] if a.vararg else []
    out += [
        _P(arg.arg, _P.KEYWORD_ONLY, default=_default(default) if default else _P.empty,
           annotation=annotation_of(arg.annotation, names))
        for arg, default in zip(a.kwonlyargs, a.kw_defaults)
    ]  # fmt: skip
    return inspect.Signature([*out, *_variadic(module, a.kwarg, out, seen)] if a.kwarg else out)


def _variadic(module: str, arg: ast.arg, own: list[inspect.Parameter], seen: frozenset) -> list[inspect.Parameter]:
    """``**more``: the names in Arguments where it is annotated with Unpack[Arguments], else whatever comes."""
    arguments = unpacked(arg.annotation)
    found = _parent(module, arguments, seen) if arguments else None
    annotations = _typed_dict(*found) if found else None
    return [_P(arg.arg, _P.VAR_KEYWORD)] if annotations is None else handed_on(annotations, own)


def _typed_dict(module: str, node: ast.ClassDef, seen: frozenset) -> dict[str, Any] | None:
    """Name -> annotation in a TypedDict and those that it extends; None if one of these cannot be read."""
    out: dict[str, Any] = {}
    for base in (b for b in node.bases if last_name(b) != "TypedDict"):
        parent = _parent(module, base, seen)
        inherited = _typed_dict(*parent) if parent else None
        if inherited is None:
            return None
        out |= inherited
    names = bindings(module_file(module), module)
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    return out | {item.target.id: annotation_of(item.annotation, names) for item in fields}


_PLAIN_BASES = {"object", "Protocol", "ABC", "Generic"}


def _class(module: str, node: ast.ClassDef, seen: frozenset) -> inspect.Signature | None:
    decorators = {last_name(d) for d in node.decorator_list}
    if "dataclass" in decorators:
        return _dataclass(module, node, seen)
    if not decorators <= _HARMLESS or any(
        k.arg == "metaclass" and last_name(k.value) != "ABCMeta" for k in node.keywords
    ):
        return None
    for wanted in ("__init__", "__new__"):
        for item in node.body:
            overload = isinstance(item, ast.FunctionDef) and "overload" in {last_name(d) for d in item.decorator_list}
            if isinstance(item, ast.FunctionDef) and item.name == wanted and not overload:
                return _function(module, item, seen, skip=1)
    for base in node.bases:
        if last_name(base) in _PLAIN_BASES:
            continue
        parent = _parent(module, base, seen)
        return _class(*parent) if parent else None
    return inspect.Signature()


def _parent(module: str, base: ast.expr, seen: frozenset) -> tuple[str, ast.ClassDef, frozenset] | None:
    """The class that an expression names: its module, its source, and ``seen`` with this step."""
    chain = name_chain(base)
    step = ("class", module, chain)
    if chain is None or step in seen:
        return None
    seen = seen | {step}
    try:
        found = _find(module, chain, seen)
    except Absent:
        return None
    if found is None or found.kind != "class":
        return None
    node = bindings(module_file(found.module), found.module).get(found.name)
    return (found.module, node, seen) if isinstance(node, ast.ClassDef) else None


def _dataclass(module: str, node: ast.ClassDef, seen: frozenset) -> inspect.Signature | None:
    if any(isinstance(i, ast.FunctionDef) and i.name == "__init__" for i in node.body):
        own = next(i for i in node.body if isinstance(i, ast.FunctionDef) and i.name == "__init__")
        return _function(module, own, seen, skip=1)
    fields: dict[str, inspect.Parameter] = {}
    for base in node.bases:
        if last_name(base) in _PLAIN_BASES:
            continue
        parent = _parent(module, base, seen)
        inherited = _class(*parent) if parent else None
        if inherited is None:
            return None
        fields |= inherited.parameters
    keyword_only = any(
        isinstance(d, ast.Call) and any(k.arg == "kw_only" and is_true(k.value) for k in d.keywords)
        for d in node.decorator_list
    )
    names = bindings(module_file(module), module)
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if last_name(item.annotation) != "ClassVar":
            given, value = item.value is not None, item.value
            if isinstance(item.value, ast.Call) and last_name(item.value) == "field":
                words = {k.arg: k.value for k in item.value.keywords}
                if "init" in words and not is_true(words["init"]):
                    continue
                given, value = "default" in words or "default_factory" in words, words.get("default")
            kind = _P.KEYWORD_ONLY if keyword_only else _P.POSITIONAL_OR_KEYWORD
            default = _default(value) if given else _P.empty
            annotation = annotation_of(item.annotation, names)
            fields[item.target.id] = _P(item.target.id, kind, default=default, annotation=annotation)
    return inspect.Signature(sorted(fields.values(), key=lambda p: p.kind))


def _partial(module: str, call: ast.Call, seen: frozenset) -> inspect.Signature | None:
    unpacked = any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords)
    if last_name(call.func) != "partial" or not call.args or unpacked:
        return None
    found = _named(module, call.args[0], seen)
    if found is None or found.signature is None:
        return None
    parameters = list(found.signature.parameters.values())
    num_bound, given = len(call.args) - 1, {k.arg for k in call.keywords}
    positional = sum(p.kind in (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD) for p in parameters)
    out, keyword_only = [], False
    for p in parameters[min(num_bound, positional) :]:  # `*args` is not used up
        keyword_only |= p.name in given and p.kind is _P.POSITIONAL_OR_KEYWORD
        kind = _P.KEYWORD_ONLY if keyword_only and p.kind is _P.POSITIONAL_OR_KEYWORD else p.kind
        if kind is _P.VAR_POSITIONAL and keyword_only:
            continue
        out.append(p.replace(kind=kind, default=GIVEN) if p.name in given else p.replace(kind=kind))
    return inspect.Signature(out)


def _extended(module: str, call: ast.Call, seen: frozenset) -> inspect.Signature | None:
    """What a function of ``_EXTENDING`` makes of the one function that it is given."""
    maker = _named(module, call.func, seen)
    own = _EXTENDING.get(maker.path) if maker else None
    given = _named(module, call.args[0], seen) if own and len(call.args) == 1 else None
    first = define(own) if given else None
    if first is None or first.signature is None or given.signature is None:
        return None
    taken = [p.replace(kind=_P.KEYWORD_ONLY) for p in given.signature.parameters.values()]
    return inspect.Signature([*list(first.signature.parameters.values())[1:], *taken])


def _named(module: str, node: ast.expr, seen: frozenset) -> Definition | None:
    chain = name_chain(node)
    try:
        return None if chain is None else _find(module, chain, seen)
    except Absent:
        return None
