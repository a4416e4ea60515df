"""Pairs of answers to one prompt, the better and the worse, for preference optimisation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from torchtune.data._message_transforms import ChosenRejectedToMessages, check_names
from torchtune.data._messages import Message, Role, mask_messages
from torchtune.data._turns import text_cell
from torchtune.datasets._arguments import LoadArguments
from torchtune.datasets._row_dataset import RowDataset, without_limit
from torchtune.datasets._rows import Row
from torchtune.datasets._sft import with_labels
from torchtune.errors import ConfigError
from torchtune.modules.transforms import Transform

_SIDES = ("chosen", "rejected")
_STACK_EXCHANGE = "lvwerra/stack-exchange-paired"


class PreferenceDataset(RowDataset):
    """Pairs of dialogues as ``chosen_input_ids``, ``chosen_labels``, ``rejected_input_ids`` and ``rejected_labels``.

    Args:
        message_transform: row to a dict with the messages ``chosen`` and ``rejected``, and ``tools`` if there are any
        tokenizer: adds ``tokens`` and ``mask`` to messages, or has ``tokenize_messages``
        packed: refused; a pair has two sequences
        source, filter_fn, load_dataset_kwargs: see :class:`~torchtune.datasets.SFTDataset`

    Raises:
        DataError: the data or a row cannot be used; names the file, the line and the column
        ConfigError: ``packed``
    """

    def __init__(
        self,
        *,
        source: str,
        message_transform: Transform,
        tokenizer: Any,
        filter_fn: Callable | None = None,
        packed: bool = False,
        filter_kwargs: dict[str, Any] | None = None,
        **load_dataset_kwargs: Unpack[LoadArguments],
    ) -> None:
        if packed:
            raise ConfigError("packed: True is not possible for pairs of answers; leave it out")
        self._message_transform, self._tokenizer = message_transform, tokenizer
        super().__init__(source, filter_fn, filter_kwargs, **load_dataset_kwargs)

    def read(self, row: Row) -> Mapping[str, list[Message]]:
        return self._message_transform(row)

    def encode(self, content: Mapping[str, list[Message]]) -> dict[str, list[int]]:
        sample = {}
        tools = {name: content[name] for name in ("tools",) if name in content}
        for side in _SIDES:
            one = with_labels(self._tokenized(content[side], tools))
            sample |= {f"{side}_input_ids": one["tokens"], f"{side}_labels": one["labels"]}
        return sample

    def _tokenized(self, messages: list[Message], tools: Mapping[str, Any]) -> dict[str, Any]:
        if callable(self._tokenizer):
            return dict(self._tokenizer({"messages": messages, **tools}))
        tokens, mask = self._tokenizer.tokenize_messages(messages, **tools)  # all that torchtune asks of a tokenizer
        return {"tokens": tokens, "mask": mask}

    @property
    def column_map(self) -> Mapping[str, str]:
        return getattr(self._message_transform, "column_map", None) or {}

    @property
    def cut_at(self) -> int | None:
        return getattr(self._tokenizer, "max_seq_len", None)

    def uncut(self) -> "PreferenceDataset":
        free = super().uncut()
        free._tokenizer = without_limit(self._tokenizer)
        return free


class QuestionAndTwoAnswers(Transform):
    """Rows of ``prompt``, ``chosen`` and ``rejected``, each a text.

    Args:
        column_map: those three names -> the dataset's column names, where they differ
        train_on_input: True trains on the prompt as well

    Raises:
        ConfigError: ``column_map`` has other names
    """

    def __init__(self, column_map: dict[str, str], train_on_input: bool = False) -> None:
        names = ("prompt", *_SIDES)
        if unknown := sorted(map(str, set(column_map) - set(names))):
            raise ConfigError(f"column_map has the entries {', '.join(unknown)}; expected {', '.join(names)}")
        self.column_map = {name: column_map.get(name, name) for name in names}
        check_names(self.column_map)
        self._strategy = "train_on_all" if train_on_input else "train_on_assistant"

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, list[Message]]:
        prompt = text_cell(sample, self.column_map["prompt"])
        return {side: self._dialogue(prompt, text_cell(sample, self.column_map[side])) for side in _SIDES}

    def _dialogue(self, prompt: str, answer: str) -> list[Message]:
        messages = [Message("user", prompt), Message("assistant", answer)]
        mask_messages(messages, self._strategy)
        return messages


def preference_dataset(
    tokenizer: Any,
    *,
    source: str,
    column_map: dict[str, str] | None = None,
    train_on_input: bool = False,
    new_system_prompt: str | None = None,
    filter_fn: Callable | None = None,
    split: str = "train",
    masking_strategy: str | Sequence[Role] | None = None,
    **load_dataset_kwargs: Unpack[LoadArguments],
) -> PreferenceDataset:
    """Rows with two dialogues, ``chosen`` and ``rejected``, each a list of ``role`` and ``content``. A ``prompt``, such
    a list or a user's text, is put before both, unless they hold it already.

    Args:
        column_map: those names -> the dataset's column names; ``prompt`` -> None leaves a column of that name out
        source, train_on_input, new_system_prompt, filter_fn, masking_strategy, load_dataset_kwargs: see
            :func:`~torchtune.datasets.instruct_dataset`
    """
    return PreferenceDataset(
        source=source,
        message_transform=ChosenRejectedToMessages(
            train_on_input or None, column_map, new_system_prompt, masking_strategy
        ),
        tokenizer=tokenizer,
        filter_fn=filter_fn,
        split=split,
        **load_dataset_kwargs,
    )


def stack_exchange_paired_dataset(
    tokenizer: Any,
    *,
    source: str = _STACK_EXCHANGE,
    column_map: dict[str, str] | None = None,
    train_on_input: bool = False,
    filter_fn: Callable | None = None,
    split: str = "train",
    **load_dataset_kwargs: Unpack[LoadArguments],
) -> PreferenceDataset:
    """Questions with a better and a worse answer: https://huggingface.co/datasets/lvwerra/stack-exchange-paired.

    Args:
        source: of that dataset the part for preference optimisation is read, ``data/rl``, unless ``data_dir`` names
            another
        column_map: ``prompt``, ``chosen`` and ``rejected`` -> the columns; None: that dataset's
        train_on_input, filter_fn, load_dataset_kwargs: see :func:`~torchtune.datasets.instruct_dataset`
    """
    columns = column_map or {"prompt": "question", "chosen": "response_j", "rejected": "response_k"}
    if source == _STACK_EXCHANGE:
        load_dataset_kwargs = {"data_dir": "data/rl", **load_dataset_kwargs}
    return PreferenceDataset(
        source=source,
        message_transform=QuestionAndTwoAnswers(columns, train_on_input),
        tokenizer=tokenizer,
        filter_fn=filter_fn,
        split=split,
        **load_dataset_kwargs,
    )
