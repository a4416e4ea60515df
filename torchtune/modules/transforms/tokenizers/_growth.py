"""How large filters, methods and formats of a template can make what they are given, told before they do."""

import re
from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import Any, NamedTuple

from jinja2.utils import Namespace

GROWING_FILTERS = (
    "batch", "center", "e", "escape", "forceescape", "format", "indent", "join", "pprint", "replace", "round", "slice",
    "sum", "tojson", "urlencode", "urlize", "wordwrap", "xmlattr",
)  # fmt: skip
_PADDING = {"center", "ljust", "rjust", "zfill"}
_GROWING_METHODS = _PADDING | {"expandtabs", "format", "format_map", "join", "replace", "to_bytes", "translate"}
_OF_PERCENT = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(\d*)(?:\.(\d+))?")
_STAR = re.compile(r"%[-+ #0]*(?:\d*\.)?\*")  # takes its width from what is given
_MOST_DIGITS = 18  # of a width; the first ones say enough


class Weight(NamedTuple):
    """What a value holds: values, those inside of others too, and characters."""

    items: int
    chars: int


def weight(*values: Any, most_items: int) -> Weight:
    """What some values hold together; counted up to ``most_items``, for a list may hold another one many times."""
    items, chars, left = 0, 0, list(values)
    while left and items <= most_items:
        found = left.pop()
        items += 1
        if isinstance(found, (str, bytes)):
            chars += len(found)
        elif isinstance(found, (list, tuple, set, frozenset)):
            left += found
        elif isinstance(found, Mapping):
            left += (*found, *found.values())
        elif isinstance(found, Namespace):
            left.append(found._Namespace__attrs)
    return Weight(items, chars)


def most_of_call(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], most_items: int) -> int:
    """Characters or items that a call of a method of a text or a number makes at most; 0 of another function."""
    method = getattr(function, "__wrapped__", function)  # Jinja wraps str.format
    name, value = getattr(method, "__name__", None), getattr(method, "__self__", None)
    if name not in _GROWING_METHODS or not isinstance(value, (str, bytes, int)):
        return 0
    given = (*args, *kwargs.values())
    return most_of(name, *((*given[:1], value) if name == "join" else (value, *given)), most_items=most_items)


def most_of(name: str, value: Any, *given: Any, most_items: int) -> int:
    """Characters or items that a filter or a method of this name makes of a value at most."""
    if name in ("format", "format_map"):
        return _most_of_format(value, given, most_items)
    if name == "replace" and len(given) > 1 and all(isinstance(text, str) for text in (value, *given[:2])):
        return len(value) + value.count(given[0]) * len(given[1])
    if not given and name != "join":
        return 0  # little more than what is there
    held, chars = weight(value, most_items=most_items), weight(*given, most_items=most_items).chars
    numbers = sum(abs(number) for number in given if isinstance(number, int))
    if name == "join":  # a text is joined letter by letter
        return held.chars + sum(held) * chars
    return sum(held) + numbers + chars if name in _PADDING else sum(held) * (1 + numbers + chars)


def _most_of_format(pattern: Any, given: Sequence[Any], most_items: int) -> int:
    """Each place of the pattern takes all that is given, at the pattern's widths."""
    if not isinstance(pattern, (str, bytes)):
        return 0
    text = str(pattern)
    specs = list(_specs(text))
    widths = [*re.findall(r"\d+", " ".join(specs)), *(width for pair in _OF_PERCENT.findall(text) for width in pair)]
    if _STAR.search(text) or any("{" in spec for spec in specs):
        widths += re.findall(r"\d+", str(given))
    places = 1 + text.count("%") + text.count("{")
    size = sum(int(width[:_MOST_DIGITS]) for width in widths if width)
    return len(text) + size + places * weight(*given, most_items=most_items).chars


def _specs(text: str) -> Iterator[str]:
    """What stands behind the colons in the braces of a text."""
    try:
        yield from (spec for _, _, spec, _ in Formatter().parse(text) if spec)
    except ValueError:  # it is none for str.format, as some with % are
        return
