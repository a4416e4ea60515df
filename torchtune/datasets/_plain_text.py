"""What datasets have in common whose texts stand outside any dialogue."""

from collections.abc import Callable
from typing import Any, Unpack

from torchtune.data._turns import shown
from torchtune.data._utils import truncate
from torchtune.datasets._arguments import LoadArguments
from torchtune.datasets._row_dataset import TokenRowDataset
from torchtune.datasets._rows import Row
from torchtune.errors import DataError


class PlainTextDataset(TokenRowDataset):
    """Texts, tokenised when asked for; a subclass says how. Those that are too long are cut, and then have no end token
    when the right side is cut away.

    Args:
        tokenizer: ``encode(text, add_bos, add_eos)``
        max_seq_len: tokens; None cuts nothing
        source, filter_fn, filter_kwargs, load_dataset_kwargs: see :class:`TokenRowDataset`

    Raises:
        DataError: the data or a row cannot be used; names the file, the line and the column
    """

    def __init__(
        self,
        tokenizer: Any,
        max_seq_len: int | None,
        source: str,
        filter_fn: Callable | None,
        filter_kwargs: dict[str, Any] | None,
        **load_dataset_kwargs: Unpack[LoadArguments],
    ) -> None:
        self._tokenizer, self._limit = tokenizer, max_seq_len
        super().__init__(source, filter_fn, filter_kwargs, **load_dataset_kwargs)

    def sample(self, tokens: list[int], labels: list[int]) -> dict[str, list[int]]:
        """A sample that is cut to length.

        No end token takes the place of the last one: to end in the middle of a text is not to be learnt.
        """
        side = getattr(self._tokenizer, "truncation_type", "right")
        whole = {"tokens": tokens, "labels": labels}
        return {name: truncate(ids, self._limit, truncation_type=side) for name, ids in whole.items()}

    @property
    def cut_at(self) -> int | None:
        return self._limit

    def uncut(self) -> "PlainTextDataset":
        free = super().uncut()
        free._limit = None
        return free


def text_in(row: Row, column: str) -> str:
    """The text of a column.

    Raises:
        DataError: it is none
    """
    if not isinstance(text := row[column], str):
        raise DataError(f"{column!r} is {shown(text)}; expected a text")
    return text
