"""Texts in which special tokens stand by their names, as lm_eval handles dialogues, and their token ids."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from torchtune.data import Message
from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer


class NamedTokens:
    """A tokenizer that reads and writes special tokens by name, also where it takes every text for plain text itself.

    Args:
        vocab_size: rows of the model's embedding; special tokens beyond them stay text.
    """

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self._ids = {name: i for name, i in tokenizer.special_tokens.items() if i < vocab_size}
        self._names = {i: name for name, i in self._ids.items()}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._any_name = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @property
    def bos_name(self) -> str | None:
        """The name of the token that begins a text; None where there is none."""
        return self._names.get(self.tokenizer.bos_id)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, nothing put before or after them."""
        if isinstance(self.tokenizer, HuggingFaceModelTokenizer):
            return self._plain(text)
        pieces = filter(None, self._any_name.split(text))
        return [i for piece in pieces for i in ([self._ids[piece]] if piece in self._ids else self._plain(piece))]

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_bos=False, add_eos=False)

    def dialogue(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The text after which the model answers, or goes on with the answer that the last turn begins.

        Args:
            turns: ``role`` and ``content`` of each.

        Raises:
            DataError: the dialogue is as long as the tokenizer takes, and so may have been cut.
        """
        if isinstance(self.tokenizer, HuggingFaceModelTokenizer):
            return self.tokenizer.render_template(list(turns), add_eos=False)
        messages = [Message(turn["role"], turn["content"]) for turn in turns]
        if messages[-1].role != "assistant":
            messages.append(Message("assistant", ""))
        ids = self.tokenizer({"messages": messages}, inference=True)["tokens"]
        limit = self.tokenizer.max_seq_len
        if limit is not None and len(ids) >= limit:
            raise DataError(f"a dialogue has {limit} tokens or more, which is tokenizer.max_seq_len; set that to null")
        return self._spell(ids)

    def _spell(self, ids: Sequence[int]) -> str:
        runs = ((special, list(run)) for special, run in groupby(ids, key=self._names.__contains__))
        return "".join(
            "".join(map(self._names.get, run)) if special else self.tokenizer.decode(run) for special, run in runs
        )
