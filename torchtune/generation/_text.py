"""From prompts to token ids, and from generated ids back to text."""

from collections.abc import Callable, Sequence
from typing import Any

from torchtune.data import Message
from torchtune.errors import DataError
from torchtune.generation._prompts import Prompt


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The ids after which the model writes; those of a dialogue end where the assistant's answer begins.

    Raises:
        DataError: the prompt is as long as the tokenizer takes, and so may have been cut.
    """
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt, add_bos=True, add_eos=False)
    else:
        ids = tokenizer({"messages": [*prompt, Message("assistant", "")]}, inference=True)["tokens"]
    limit = getattr(tokenizer, "max_seq_len", None)
    if limit is not None and len(ids) >= limit:
        raise DataError(f"a prompt has {limit} tokens or more, which is tokenizer.max_seq_len; set that to null")
    return ids


def answer_text(tokenizer: Any, ids: Sequence[int], stop: Sequence[str] = ()) -> str:
    """The text of generated ids, without the stop token at their end and up to the first of the ``stop`` strings."""
    ended = bool(ids) and ids[-1] in tokenizer.stop_tokens
    text = tokenizer.decode(list(ids[:-1] if ended else ids))
    return text[: min((place for place in map(text.find, stop) if place >= 0), default=len(text))]


def contains_stop(tokenizer: Any, stop: Sequence[str]) -> Callable[[list[int]], bool] | None:
    """Whether generated ids have come to one of the ``stop`` strings, for ``decode``; None when there are none."""
    if not stop:
        return None
    return lambda ids: any(string in tokenizer.decode(ids) for string in stop)
