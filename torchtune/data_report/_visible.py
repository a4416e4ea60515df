"""Characters that cannot be seen, or that a terminal or a browser would obey, written out."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

LINE_END = "\u21b5"  # ↵
OPEN, CLOSE = "\u27e6", "\u27e7"  # ⟦ and ⟧, which hardly any text has
# A backslash of the text's own that would look like the beginning of something written out.
_BACKSLASH = re.compile(r"\\(?=[tr\\]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[^ -~\n])")


def stretches(text: str, marks: str = LINE_END) -> Iterator[tuple[str, bool]]:
    """The text in pieces, and whether each is of characters that are written out, as ``\\x1b``.

    Args:
        marks: what the report writes itself; in a text it is written out as well.
    """
    for is_hidden, run in groupby(text, key=lambda letter: _is_hidden(letter) or letter in marks):
        stretch = "".join(run)
        yield stretch.encode("unicode_escape").decode() if is_hidden else stretch, is_hidden


def visible(text: str) -> str:
    """The text with such characters written out."""
    return "".join(stretch for stretch, _ in stretches(text, marks=""))


def unmistakable(text: str, names: Iterable[str] = ()) -> str:
    """The text so that, without colours, nothing in it can be taken for what the report writes.

    Args:
        names: of special tokens; in a text they are letters like others.
    """
    doubled = _BACKSLASH.sub(r"\\\\", text)
    for name in names:
        doubled = doubled.replace(name, f"\\x{ord(name[0]):02x}{name[1:]}")
    return "".join(stretch for stretch, _ in stretches(doubled, marks=LINE_END + OPEN + CLOSE))


def has_hidden(text: str) -> bool:
    """Whether something in it is written out."""
    return any(_is_hidden(letter) or letter in LINE_END + OPEN + CLOSE for letter in text)


def _is_hidden(letter: str) -> bool:
    return not letter.isprintable() and letter != "\n"
