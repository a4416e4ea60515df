"""Rows that become a prompt, which is masked, and an answer, which is trained on, both outside any chat format."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from torchtune.data import CROSS_ENTROPY_IGNORE_IDX
from torchtune.datasets._plain_text import PlainTextDataset
from torchtune.datasets._rows import Row


class Prompted(NamedTuple):
    """What a row says."""

    prompt: str
    answer: str


class PromptedDataset(PlainTextDataset):
    """Prompts and answers, tokenised when asked for. A subclass says how a row is read.

    Args:
        tokenizer: see :class:`PlainTextDataset`; longer samples than its ``max_seq_len`` are cut.
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
        self._masks_prompt = not train_on_input
        limit = getattr(tokenizer, "max_seq_len", None)
        super().__init__(tokenizer, limit, source, filter_fn, None, **load_dataset_kwargs)

    @abstractmethod
    def read(self, row: Row) -> Prompted: ...

    def tokens(self, content: Prompted) -> tuple[list[int], int]:
        """The ids of both together, and how many of them are the prompt's; the last one ends the answer."""
        prompt = self._tokenizer.encode(content.prompt, add_bos=True, add_eos=False)
        return prompt + self._tokenizer.encode(content.answer, add_bos=False, add_eos=True), len(prompt)

    def encode(self, content: Prompted) -> dict[str, list[int]]:
        tokens, masked = self.tokens(content)
        labels = [CROSS_ENTROPY_IGNORE_IDX] * masked + tokens[masked:] if self._masks_prompt else tokens
        return self.sample(tokens, labels)
