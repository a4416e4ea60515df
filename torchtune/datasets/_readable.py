"""Token ids as a person reads them: special tokens by name, and each piece of text with the ids that make it."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

_UNFINISHED = "\ufffd"  # what stands for a letter whose other bytes are still to come


def special_names(tokenizer: Any) -> dict[int, str]:
    """Id -> name of the special tokens that the tokenizer knows."""
    found = getattr(tokenizer, "special_tokens", None)
    return {index: name for name, index in found.items()} if isinstance(found, Mapping) else {}


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """The whole text of the ids; of a tokenizer that cannot decode, their numbers."""
    return "".join(text for _, text in pieces_of(tokenizer, ids, by_token=False))


def pieces_of(tokenizer: Any, ids: Sequence[int], *, by_token: bool = True) -> Iterator[tuple[list[int], str]]:
    """Ids and their text, in order; a special token is a piece of its own.

    Args:
        by_token: cut the text at each token, but not inside of a letter; False gives all between two special tokens.
    """
    names, decode = special_names(tokenizer), _decoder(tokenizer)
    for is_special, run in groupby(map(int, ids), names.__contains__):
        if is_special:
            yield from (([index], names[index]) for index in run)
        elif decode is None:
            yield from (([index], f"{index} ") for index in run)
        else:
            found = list(run)
            yield from _by_token(decode, found) if by_token else [(found, decode(found))]


def _by_token(decode: Callable[[list[int]], str], ids: list[int]) -> Iterator[tuple[list[int], str]]:
    """Each token's text is what decoding gets longer by, since some decoders drop the space before a first word."""
    before = begin = 0  # what is decoded again to see the difference, and where the piece begins
    known = ""
    for end in range(1, len(ids) + 1):
        text = decode(ids[before:end])
        if end < len(ids) and text.endswith(_UNFINISHED):
            continue
        yield ids[begin:end], text[len(known) :]
        before, begin = begin, end
        known = decode(ids[before:begin])


def _decoder(tokenizer: Any) -> Callable[[list[int]], str] | None:
    """What decodes special tokens too; None of a tokenizer that cannot decode."""
    if not hasattr(tokenizer, "decode"):
        return None
    takes = inspect.signature(tokenizer.decode).parameters  # looked up once: it takes longer than to decode a token
    return partial(tokenizer.decode, **{"skip_special_tokens": False} if "skip_special_tokens" in takes else {})
