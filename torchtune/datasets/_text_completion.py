"""Plain text to go on with: every token is trained on."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from torchtune.datasets._arguments import LoadArguments
from torchtune.datasets._packed import PackedDataset
from torchtune.datasets._packed_stream import PackedStream, pack_to_fit
from torchtune.datasets._plain_text import PlainTextDataset, text_in
from torchtune.datasets._rows import Row


class TextCompletionDataset(PlainTextDataset):
    """The texts of one column, tokenised when asked for.

    Args:
        column: the one with the text
        add_eos: put the tokenizer's end token behind each text
        max_seq_len: tokens, in place of the tokenizer's own; longer texts are cut, see :class:`PlainTextDataset`
        source, filter_fn, load_dataset_kwargs: see :class:`~torchtune.datasets.SFTDataset`; ``source`` may be ``text``
            or a ``.txt`` file, each line of which is a row

    Raises:
        DataError: the data or a row cannot be used; names the file, the line and the column
    """

    def __init__(
        self,
        tokenizer: Any,
        source: str,
        column: str = "text",
        add_eos: bool = True,
        filter_fn: Callable | None = None,
        filter_kwargs: dict[str, Any] | None = None,
        max_seq_len: int | None = None,
        **load_dataset_kwargs: Unpack[LoadArguments],
    ) -> None:
        self._column, self._add_eos = column, add_eos
        limit = max_seq_len or tokenizer.max_seq_len
        super().__init__(tokenizer, limit, source, filter_fn, filter_kwargs, **load_dataset_kwargs)

    def read(self, row: Row) -> str:
        return text_in(row, self._column)

    def encode(self, content: str) -> dict[str, list[int]]:
        tokens = self._tokenizer.encode(content, add_bos=True, add_eos=self._add_eos)
        return self.sample(tokens, tokens)

    @property
    def column_map(self) -> Mapping[str, str]:
        return {"text": self._column}


def text_completion_dataset(
    tokenizer: Any,
    source: str,
    column: str = "text",
    add_eos: bool = True,
    packed: bool | str = False,
    split_across_pack: bool = True,
    split: str = "train",
    filter_fn: Callable | None = None,
    *,
    max_seq_len: int | None = None,
    **load_dataset_kwargs: Unpack[LoadArguments],
) -> TextCompletionDataset | PackedDataset | PackedStream:
    """Text to go on with, as in pre-training.

    Args:
        packed: fill sequences of ``max_seq_len`` with several texts each
        split_across_pack: when packed, lay the texts end to end, whole and in their order, and cut them where a pack is
            full; otherwise each is cut to ``max_seq_len`` and lies in one pack, and ``packed`` may say how they are
            put there, see :func:`~torchtune.datasets.instruct_dataset`
        source, column, add_eos, split, filter_fn, max_seq_len, load_dataset_kwargs: see :class:`TextCompletionDataset`
    """
    dataset = TextCompletionDataset(
        tokenizer, source, column, add_eos, filter_fn, max_seq_len=max_seq_len, split=split, **load_dataset_kwargs
    )
    return pack_to_fit(dataset, tokenizer, packed, max_seq_len, split_across_pack=split_across_pack)
