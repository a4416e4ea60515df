"""Messages that a template leaves out: their text does not occur in the text of their sample."""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from torchtune.data._messages import TOOL_ROLES
from torchtune.datasets._parts import Part
from torchtune.datasets._prepare import Preparation
from torchtune.datasets._readable import text_of

_BESIDE_TEXT = re.compile(r"[\W_]+")


def dropped_messages(part: Part, is_cut: np.ndarray, tokenizer: Any) -> dict[str, dict[int, str]]:
    """By role: the samples that lack a message, and the text of the first one that each lacks.

    The samples that are looked at are those of :meth:`Part.spread`, also what was cut off of them. Of a tokenizer that
    cannot decode nothing is known.

    Args:
        is_cut: whether a sample of the part's table was cut, [n].
    """
    lacking: dict[str, dict[int, str]] = defaultdict(dict)
    for position, tokens in _samples(part, is_cut) if hasattr(tokenizer, "decode") else ():
        messages = [message for message in part.messages(position) if not _calls_a_tool(message)]
        sample = text_of(tokenizer, tokens) if messages else ""
        letters = _letters(sample)
        for role, text in ((message.role, _said(message)) for message in messages):
            if not _letters(text):
                continue
            if not (_has_words(sample, text) if role in TOOL_ROLES else _occurs(letters, text, tokenizer)):
                lacking[role].setdefault(position, text)
    return lacking


def _samples(part: Part, is_cut: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Positions, and the tokens of the whole sample."""
    chosen = part.spread()
    yield from ((position, part.table[position]["tokens"]) for position in chosen[~is_cut[chosen]].tolist())
    cut = chosen[is_cut[chosen]]
    whole = part.uncut(cut, Preparation(0, is_main=False)) if len(cut) else ()
    yield from ((position, whole[i]["tokens"]) for i, position in enumerate(cut.tolist()))


def _calls_a_tool(message: Any) -> bool:
    """Whether a template may write the message in a form of its own, without what else is said in it."""
    return message.ipython or bool(message.tool_calls)


def _said(message: Any) -> str:
    """The text of a message without the thoughts before an answer, which many templates leave out on purpose."""
    return message.text_content.rpartition("</think>")[2]


def _letters(text: str) -> str:
    """Letters and digits alone: templates strip and add white space, and write quotes and other marks in other ways."""
    return _BESIDE_TEXT.sub("", unicodedata.normalize("NFKC", text)).casefold()


def _occurs(letters: str, text: str, tokenizer: Any) -> bool:
    if _letters(text) in letters or _letters(json.dumps(text)) in letters:
        return True
    known = text_of(tokenizer, tokenizer.encode(text, add_bos=False, add_eos=False))  # not all know all letters
    return _letters(known) in letters


def _has_words(sample: str, text: str) -> bool:
    """Whether most words of a text occur; templates write a tool's result in a form of their own."""
    wanted = set(re.findall(r"\w+", text))
    return 2 * len(wanted & set(re.findall(r"\w+", sample))) >= len(wanted)
