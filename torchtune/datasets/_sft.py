"""Supervised fine-tuning samples: a row becomes messages, messages become tokens and labels, when asked for."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from torchtune.data._collate import CROSS_ENTROPY_IGNORE_IDX
from torchtune.datasets._arguments import LoadArguments
from torchtune.datasets._row_dataset import TokenRowDataset, without_limit
from torchtune.datasets._rows import Row
from torchtune.errors import ConfigError
from torchtune.modules.transforms import Transform


class SFTTransform(Transform):
    """Row to ``tokens``, ``mask`` and ``labels``, by way of messages.

    Args:
        message_transform: row to a dict with ``messages``; None when the row has them already
        model_transform: adds ``tokens`` and ``mask`` (True: not trained on), as a tokenizer does; None stops before
    """

    def __init__(self, message_transform: Transform | None = None, model_transform: Transform | None = None) -> None:
        if message_transform is None and model_transform is None:
            raise ConfigError("SFTTransform needs a message_transform, a model_transform or both")
        self._message_transform, self._model_transform = message_transform, model_transform

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        if self._message_transform is not None:
            sample = self._message_transform(sample)
        if self._model_transform is None:
            return dict(sample)
        return with_labels(dict(self._model_transform(sample)))


def with_labels(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample and its ``labels``: the tokens where the mask is False, else -100; not shifted."""
    if "tokens" not in sample or "mask" not in sample:
        raise ConfigError(f"the model_transform must give 'tokens' and 'mask'; it gave {list(sample)}")
    tokens, mask = sample["tokens"], sample["mask"]
    if len(tokens) != len(mask):
        raise ConfigError(f"the model_transform gave {len(tokens)} tokens and a mask of {len(mask)}")
    sample["labels"] = [CROSS_ENTROPY_IGNORE_IDX if hidden else token for token, hidden in zip(tokens, mask)]
    return sample


class SFTDataset(TokenRowDataset):
    """Samples for supervised fine-tuning, tokenised when asked for.

    Args:
        source, filter_fn, filter_kwargs, load_dataset_kwargs: see :class:`TokenRowDataset`
        message_transform: row to a dict with ``messages``
        model_transform: usually the tokenizer: adds ``tokens`` and ``mask``

    Raises:
        DataError: the data or a row cannot be used; names the file, the line and the column
        ConfigError: an argument is wrong
    """

    def __init__(
        self,
        *,
        source: str,
        message_transform: Transform,
        model_transform: Transform,
        filter_fn: Callable | None = None,
        filter_kwargs: dict[str, Any] | None = None,
        **load_dataset_kwargs: Unpack[LoadArguments],
    ) -> None:
        self._message_transform, self._model_transform = message_transform, model_transform
        super().__init__(source, filter_fn, filter_kwargs, **load_dataset_kwargs)

    def read(self, row: Row) -> Mapping[str, Any]:
        return self._message_transform(row)

    def encode(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return with_labels(dict(self._model_transform(content)))

    @property
    def column_map(self) -> Mapping[str, str]:
        return getattr(self._message_transform, "column_map", None) or {}

    @property
    def cut_at(self) -> int | None:
        return getattr(self._model_transform, "max_seq_len", None)

    def uncut(self) -> "SFTDataset":
        free = super().uncut()
        free._model_transform = without_limit(self._model_transform)
        return free
