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

_SAMPLES = 1_000
_TOKENS = 2_000_000
_BESIDE_TEXT = re.compile(r"[\W_]+")


def dropped_messages(part: Part, is_cut: np.ndarray, tokenizer: Any) -> dict[str, tuple[list[int], int, str]]:
    """By role: the samples that lack a message, how many messages there are, and the text of the first that is lacking.

    At most a thousand samples are looked at, evenly spread. Of a sample that was cut, all is looked at. Of a tokenizer
    that cannot decode nothing is known.

    Args:
        is_cut: whether a sample of the part's table was cut, [n].
    """
    lacking: dict[str, list[int]] = defaultdict(list)
    totals: dict[str, int] = defaultdict(int)
    texts: dict[str, str] = {}
    for position, tokens in _samples(part, is_cut) if hasattr(tokenizer, "decode") else ():
        messages = [message for message in part.messages(position) if not _calls_a_tool(message)]
        sample = text_of(tokenizer, tokens) if messages else ""
        letters = _letters(sample)
        for role, text in ((message.role, _said(message)) for message in messages):
            if not _letters(text):
                continue
            totals[role] += 1
            if not (_has_words(sample, text) if role in TOOL_ROLES else _occurs(letters, text, tokenizer)):
                lacking[role].append(position)
                texts.setdefault(role, text)
    return {role: (positions, totals[role], texts[role]) for role, positions in lacking.items()}


def _samples(part: Part, is_cut: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Positions, and the tokens of the whole sample."""
    if not len(part.table) or not part.messages(0):
        return
    chosen = np.unique(np.linspace(0, len(part.table) - 1, _SAMPLES).astype(int))
    chosen = chosen[: 1 + np.searchsorted(np.cumsum(part.table.lengths[chosen]), _TOKENS)]
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
