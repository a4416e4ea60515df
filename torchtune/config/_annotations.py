"""Annotations of parameters: read from source without running it, and what they say for certain of a plain value."""

import ast
import builtins
import collections.abc
import inspect
import os
import pathlib
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from torchtune.config._keys import AtLeast, check_value
from torchtune.config._source import last_name, name_chain

_P = inspect.Parameter
HANDED_ON = object()  # the default of an argument that a function takes only to hand it on: `**more: Unpack[Arguments]`
_STANDARD = {m.__name__: vars(m) for m in (typing, collections.abc, pathlib, os)}
_SCALARS = (bool, int, float, str, NoneType)
_PLAIN = (*_SCALARS, list, dict)
_LIKE_A_NUMBER = re.compile(r"\s*[+-]?\.?\d")
# Numbers that mean the same wherever a component takes them, and their bounds.
_BOUNDS = {"max_seq_len": AtLeast(1)}


def annotation_of(node: ast.expr | None, names: Mapping[str, object]) -> Any:
    """The annotation that stands in a source file; Any for what is neither built in nor of ``typing`` and the like.

    Args:
        names: what the file binds, see ``_source.bindings``.
    """
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str()):
            return _of_text(node.value, names)
        case ast.Name() | ast.Attribute():
            return _standard(name_chain(node), names)
        case ast.BinOp(op=ast.BitOr()):
            return _union([annotation_of(side, names) for side in (node.left, node.right)])
        case ast.Subscript():
            return _subscript(annotation_of(node.value, names), node.slice, names)
    return Any


def _of_text(text: str, names: Mapping[str, object]) -> Any:
    try:
        return annotation_of(ast.parse(text, mode="eval").body, names)
    except SyntaxError:
        return Any


def _standard(chain: tuple[str, ...] | None, names: Mapping[str, object]) -> Any:
    match chain and names.get(chain[0]), chain:
        case None, (name,) if name not in names:
            return vars(builtins).get(name, Any)
        case ("from", source, original), (_,):
            return _STANDARD.get(source, {}).get(original, Any)
        case ("module", top), (_, *between, last):
            return _STANDARD.get(".".join((top, *between)), {}).get(last, Any)
    return Any


def _subscript(origin: Any, within: ast.expr, names: Mapping[str, object]) -> Any:
    """Only what decides about a value is kept: of ``dict[str, int]`` that it is a mapping."""
    parts = within.elts if isinstance(within, ast.Tuple) else [within]
    if origin is Literal:
        known = all(isinstance(part, ast.Constant) for part in parts)
        return Literal[tuple(part.value for part in parts)] if known else Any
    if origin is typing.Optional:
        return _union([annotation_of(within, names), None])
    if origin is Union:
        return _union([annotation_of(part, names) for part in parts])
    return annotation_of(parts[0], names) if origin is Annotated else origin


def _union(parts: list[Any]) -> Any:
    try:
        return Union[tuple(parts)]  # noqa: UP007
    except TypeError:  # one of them is no type
        return Any


def unpacked(node: ast.expr | None) -> ast.expr | None:
    """What ``Unpack[...]`` holds, in a source file; None for another annotation."""
    return node.slice if isinstance(node, ast.Subscript) and last_name(node) == "Unpack" else None


def handed_on(annotations: Mapping[str, Any], own: Iterable[inspect.Parameter]) -> list[inspect.Parameter]:
    """The parameters that ``**more: Unpack[Arguments]`` stands for, beside those that the function names itself."""
    taken = {p.name for p in own}
    return [
        _P(name, _P.KEYWORD_ONLY, default=HANDED_ON, annotation=annotation)
        for name, annotation in annotations.items()
        if name not in taken
    ]


def signature_of(component: Callable) -> inspect.Signature:
    """The signature of what is at hand; ``**more: Unpack[Arguments]`` is replaced by what it stands for.

    Raises:
        ValueError, TypeError: it does not say, as some C functions.
    """
    try:
        signature = inspect.signature(component, eval_str=True)
    except Exception:  # an annotation that is text may name what is not there
        signature = inspect.signature(component)
    *own, last = signature.parameters.values() or [None]
    if last is None or last.kind is not _P.VAR_KEYWORD or get_origin(last.annotation) is not typing.Unpack:
        return signature
    (arguments,) = get_args(last.annotation)
    return signature.replace(parameters=[*own, *handed_on(get_type_hints(arguments), own)])


def value_faults(signature: inspect.Signature, values: Mapping[str, Any], owner: str = "") -> list[tuple[str, str]]:
    """(argument, message) for each plain value that is certainly not what its parameter takes.

    Args:
        owner: the dotted key of the component, for messages.
    """
    faults = []
    for name, parameter in signature.parameters.items():
        value = values.get(name)
        if name not in values or not _is_plain(value) or (value is None and parameter.default is False):
            continue  # whoever reads null where False is meant takes it for that
        kind = _kind_of(parameter)
        if kind is None and isinstance(value, str) and _wants_number(parameter, value):
            kind = float
        message = None if kind is None else check_value(f"{owner}.{name}" if owner else name, value, kind)[1]
        faults += [(name, message)] if message else []
    return faults


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping) and "_component_" in value:
        return False  # what it makes is seen only when it is made
    return type(value) in _PLAIN and not (isinstance(value, str) and "${" in value)


def _wants_number(parameter: inspect.Parameter, text: str) -> bool:
    """Whether a text stands where a number must be, as far as the default tells: another type is possible besides, such
    as a tensor, or the text is a number gone wrong, such as 1e-3x.
    """
    default, annotation = parameter.default, parameter.annotation
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if not isinstance(default, int | float) or isinstance(default, bool) or str in parts:
        return False
    return float in parts or int in parts or _LIKE_A_NUMBER.match(text) is not None


def _kind_of(parameter: inspect.Parameter) -> Any | None:
    """The type that a value must have, as ``check_value`` wants it; None where that is not certain."""
    kinds = _certain(parameter.annotation)
    if kinds is None or parameter.kind in (_P.VAR_POSITIONAL, _P.VAR_KEYWORD):
        return None
    default, bound = parameter.default, _BOUNDS.get(parameter.name)
    kinds = [Annotated[k, bound] if bound and k in (int, float) else k for k in kinds]
    kind = _union([*kinds, NoneType] if default is None else kinds)
    if type(default) in _PLAIN and check_value("", default, kind)[1]:
        return None  # an annotation that its own default contradicts is not meant so
    return kind


def _certain(annotation: Any) -> list[Any] | None:
    """The types that an annotation allows; None if one of them may be more than is seen here."""
    origin = get_origin(annotation) or annotation
    if origin in (Union, UnionType):
        found = [_certain(part) for part in get_args(annotation)]
        return None if None in found else [kind for kinds in found for kind in kinds]
    if origin is None:
        return [NoneType]
    if origin is Annotated:
        return _certain(get_args(annotation)[0])
    if origin is Literal:
        return [annotation]
    if origin in (*_SCALARS, list, Callable):
        return [origin]
    if origin in (dict, Mapping):
        return [Mapping]
    if origin in (tuple, Sequence):  # YAML has only lists
        return [list] if origin is tuple else [list, str]
    return [str] if isinstance(origin, type) and issubclass(origin, os.PathLike) else None
