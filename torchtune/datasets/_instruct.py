"""Builders of datasets for instructions and for dialogues, from columns that the user names."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

from torchtune.data._message_transforms import InputOutputToMessages, OpenAIToMessages, ShareGPTToMessages
from torchtune.data._messages import Role
from torchtune.datasets._arguments import LoadArguments
from torchtune.datasets._packed import PackedDataset
from torchtune.datasets._packed_stream import PackedStream, pack_to_fit
from torchtune.datasets._sft import SFTDataset
from torchtune.errors import ConfigError

_STYLES = {"sharegpt": (ShareGPTToMessages, "conversations"), "openai": (OpenAIToMessages, "messages")}


def instruct_dataset(
    tokenizer: Any,
    *,
    source: str,
    column_map: dict[str, str] | None = None,
    train_on_input: bool = False,
    new_system_prompt: str | None = None,
    packed: bool | str = False,
    filter_fn: Callable | None = None,
    split: str = "train",
    masking_strategy: str | Sequence[Role] | None = None,
    **load_dataset_kwargs: Unpack[LoadArguments],
) -> SFTDataset | PackedDataset | PackedStream:
    """Rows with a column for what is asked and one for the answer.

    Args:
        source: a Hub dataset; a file; or ``json``, ``csv``, ``parquet`` with ``data_files=...``
        column_map: ``input`` and ``output`` -> the columns of the data
        train_on_input: False masks what is asked, so that only the answer is learnt
        new_system_prompt: a system message to begin each sample with; not trained on
        packed: fill sequences of ``tokenizer.max_seq_len`` with several samples each, as well as
            possible (True, ``best_fit``) or as torchtune does (``greedy``)
        filter_fn: which rows to keep
        masking_strategy: says more exactly what is learnt, see :func:`~torchtune.data.mask_messages`
        load_dataset_kwargs: see :class:`~torchtune.datasets.SFTDataset`
    """
    dataset = SFTDataset(
        source=source,
        message_transform=InputOutputToMessages(
            train_on_input or None, column_map, new_system_prompt, masking_strategy=masking_strategy
        ),
        model_transform=tokenizer,
        filter_fn=filter_fn,
        split=split,
        **load_dataset_kwargs,
    )
    dataset.warn_of_unused(
        ("history", "system"), "only input and output are read. Write the rows as dialogues (dataset=chat)"
    )
    return pack_to_fit(dataset, tokenizer, packed)


def chat_dataset(
    tokenizer: Any,
    *,
    source: str,
    conversation_column: str,
    conversation_style: str,
    train_on_input: bool = False,
    new_system_prompt: str | None = None,
    packed: bool | str = False,
    filter_fn: Callable | None = None,
    split: str = "train",
    masking_strategy: str | Sequence[Role] | None = None,
    column_map: dict[str, str] | None = None,
    **load_dataset_kwargs: Unpack[LoadArguments],
) -> SFTDataset | PackedDataset | PackedStream:
    """Rows with a column that holds a dialogue.

    Args:
        conversation_column: the column
        conversation_style: ``sharegpt`` (``from`` and ``value`` of each turn) or ``openai`` (``role`` and ``content``)
        train_on_input: True trains on all messages, False on the assistant's
        column_map: names of further columns, such as ``tools``; see the transform of the style
        source, new_system_prompt, packed, filter_fn, masking_strategy, load_dataset_kwargs: see
            :func:`instruct_dataset`

    Raises:
        ConfigError: the style is another
    """
    if conversation_style not in _STYLES:
        raise ConfigError(f"conversation_style is {conversation_style!r}; it must be one of {', '.join(_STYLES)}")
    transform, column = _STYLES[conversation_style]
    dataset = SFTDataset(
        source=source,
        message_transform=transform(
            train_on_input or None,
            {column: conversation_column, **(column_map or {})},
            new_system_prompt,
            masking_strategy=masking_strategy,
        ),
        model_transform=tokenizer,
        filter_fn=filter_fn,
        split=split,
        **load_dataset_kwargs,
    )
    return pack_to_fit(dataset, tokenizer, packed)
