"""Alpaca-shaped instruction data: columns instruction, input (may be empty or absent) and output."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

from torchtune.data._message_transforms import AlpacaToMessages
from torchtune.data._messages import Role
from torchtune.datasets._arguments import LoadArguments
from torchtune.datasets._packed import PackedDataset
from torchtune.datasets._packed_stream import PackedStream, pack_to_fit
from torchtune.datasets._sft import SFTDataset


def alpaca_dataset(
    tokenizer: Any,
    *,
    source: str = "tatsu-lab/alpaca",
    column_map: dict[str, str] | None = None,
    train_on_input: bool = True,
    packed: bool | str = False,
    filter_fn: Callable | None = None,
    split: str = "train",
    masking_strategy: str | Sequence[Role] | None = None,
    **load_dataset_kwargs: Unpack[LoadArguments],
) -> SFTDataset | PackedDataset | PackedStream:
    """Instructions and answers as in https://huggingface.co/datasets/tatsu-lab/alpaca, or own data of that shape.

    Args:
        source: a Hub dataset; a JSON, CSV or Parquet file; or ``json``, ``csv``, ``parquet`` with ``data_files=...``
        column_map: the names that instruction, input and output have in the data, where they differ
        train_on_input: False masks the prompt, so that only the answer is learnt
        packed: fill sequences of ``tokenizer.max_seq_len`` with several samples each, as well as
            possible (True, ``best_fit``) or as torchtune does (``greedy``)
        filter_fn: which rows to keep
        masking_strategy: says more exactly what is learnt, see :func:`~torchtune.data.mask_messages`
        load_dataset_kwargs: see :class:`~torchtune.datasets.SFTDataset`
    """
    dataset = SFTDataset(
        source=source,
        message_transform=AlpacaToMessages(None if train_on_input else False, column_map, masking_strategy),
        model_transform=tokenizer,
        filter_fn=filter_fn,
        split=split,
        **load_dataset_kwargs,
    )
    dataset.warn_of_unused(
        ("history", "system"), "Alpaca's prompt has no place for it. Write the rows as dialogues (dataset=chat)"
    )
    return pack_to_fit(dataset, tokenizer, packed)


# https://huggingface.co/datasets/yahma/alpaca-cleaned: the same data with its known faults mended
alpaca_cleaned_dataset = partial(alpaca_dataset, source="yahma/alpaca-cleaned")
