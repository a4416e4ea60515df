"""Rows that become a prompt, which is masked, and an answer, which is trained on, both outside any chat format."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torchtune.data import CROSS_ENTROPY_IGNORE_IDX
from torchtune.data._utils import truncate
from torchtune.datasets._row_dataset import TokenRowDataset
from torchtune.datasets._rows import Row
from torchtune.errors import DataError


class Prompted(NamedTuple):
    """What a row says."""

    prompt: str
    answer: str


class PromptedDataset(TokenRowDataset):
    """Prompts and answers, tokenised when asked for. A subclass says how a row is read.

    Args:
        tokenizer: ``encode(text, add_bos, add_eos)``; longer samples than its ``max_seq_len`` are cut.
        train_on_input: train on the prompt too.
        source, filter_fn, load_dataset_kwargs: see :class:`torchtune.datasets.SFTDataset`

    Raises:
        DataError: the data or a row cannot be used; names the file, the line and the column
    """

    def __init__(
        self,
        tokenizer: Any,
        source: str,
        train_on_input: bool = False,
        filter_fn: Callable | None = None,
        **load_dataset_kwargs: Any,
    ) -> None:
        self._tokenizer, self._masks_prompt = tokenizer, not train_on_input
        self._limit: int | None = getattr(tokenizer, "max_seq_len", None)
        super().__init__(source, filter_fn, **load_dataset_kwargs)

    def read(self, row: Row) -> Prompted:
        raise NotImplementedError

    def tokens(self, content: Prompted) -> tuple[list[int], int]:
        """The ids of both together, and how many of them are the prompt's; the last one ends the answer."""
        prompt = self._tokenizer.encode(content.prompt, add_bos=True, add_eos=False)
        return prompt + self._tokenizer.encode(content.answer, add_bos=False, add_eos=True), len(prompt)

    def encode(self, content: Prompted) -> dict[str, list[int]]:
        tokens, masked = self.tokens(content)
        labels = [CROSS_ENTROPY_IGNORE_IDX] * masked + tokens[masked:] if self._masks_prompt else tokens
        side = getattr(self._tokenizer, "truncation_type", "right")
        # No end token takes the place of the last: to end in the middle of an answer is not to be learnt.
        return {
            "tokens": truncate(tokens, self._limit, truncation_type=side),
            "labels": truncate(labels, self._limit, truncation_type=side),
        }

    @property
    def cut_at(self) -> int | None:
        return self._limit

    def uncut(self) -> "PromptedDataset":
        free = super().uncut()
        free._limit = None
        return free


def text_in(row: Row, column: str) -> str:
    """The text of a column.

    Raises:
        DataError: it is none
    """
    if not isinstance(text := row[column], str):
        raise DataError(f"{column!r} is {text!r}; expected a text")
    return text
