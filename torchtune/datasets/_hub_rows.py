"""Datasets of the Hub that have names here: rows over the general builders."""

from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

from torchtune.datasets._arguments import DialogueArguments, TextArguments
from torchtune.datasets._instruct import chat_dataset, instruct_dataset
from torchtune.datasets._packed import PackedDataset
from torchtune.datasets._packed_stream import PackedStream
from torchtune.datasets._preference import preference_dataset
from torchtune.datasets._sft import SFTDataset
from torchtune.datasets._text_completion import TextCompletionDataset, text_completion_dataset

# https://huggingface.co/datasets/liweili/c4_200m
grammar_dataset = partial(instruct_dataset, source="liweili/c4_200m")

# https://huggingface.co/datasets/RLHFlow/HH-RLHF-Helpful-standard
hh_rlhf_helpful_dataset = partial(preference_dataset, source="RLHFlow/HH-RLHF-Helpful-standard")


def samsum_dataset(
    tokenizer: Any,
    *,
    source: str = "Samsung/samsum",
    column_map: dict[str, str] | None = None,
    train_on_input: bool = False,
    new_system_prompt: str | None = None,
    packed: bool | str = False,
    filter_fn: Callable | None = None,
    split: str = "train",
    **load_dataset_kwargs: Unpack[DialogueArguments],
) -> SFTDataset | PackedDataset | PackedStream:
    """Conversations and what was said in them: https://huggingface.co/datasets/Samsung/samsum.

    Args:
        column_map: ``input`` and ``output`` -> the columns of the data; None: that dataset's
        source, train_on_input, new_system_prompt, packed, filter_fn, split, load_dataset_kwargs: see
            :func:`~torchtune.datasets.instruct_dataset`
    """
    options = {"train_on_input": train_on_input, "new_system_prompt": new_system_prompt, "packed": packed}
    options |= {"column_map": column_map or {"input": "dialogue", "output": "summary"}, "filter_fn": filter_fn}
    return instruct_dataset(tokenizer, source=source, split=split, **options, **load_dataset_kwargs)


def slimorca_dataset(
    tokenizer: Any,
    *,
    source: str = "Open-Orca/SlimOrca-Dedup",
    column_map: dict[str, str] | None = None,
    train_on_input: bool = False,
    new_system_prompt: str | None = None,
    packed: bool | str = False,
    filter_fn: Callable | None = None,
    split: str = "train",
    **load_dataset_kwargs: Unpack[DialogueArguments],
) -> SFTDataset | PackedDataset | PackedStream:
    """Dialogues in ShareGPT's form: https://huggingface.co/datasets/Open-Orca/SlimOrca-Dedup.

    Args:
        column_map: ``conversations`` -> the column of the data; further ones as in
            :class:`~torchtune.data.ShareGPTToMessages`
        source, train_on_input, new_system_prompt, packed, filter_fn, split, load_dataset_kwargs: see
            :func:`~torchtune.datasets.chat_dataset`
    """
    options = {"train_on_input": train_on_input, "new_system_prompt": new_system_prompt, "packed": packed}
    options |= {
        "conversation_column": "conversations",
        "column_map": column_map,
        "conversation_style": "sharegpt",
        "filter_fn": filter_fn,
    }
    return chat_dataset(tokenizer, source=source, split=split, **options, **load_dataset_kwargs)


def cnn_dailymail_articles_dataset(
    tokenizer: Any,
    source: str = "ccdv/cnn_dailymail",
    max_seq_len: int | None = None,
    filter_fn: Callable | None = None,
    split: str = "train",
    **load_dataset_kwargs: Unpack[TextArguments],
) -> TextCompletionDataset:
    """News articles: https://huggingface.co/datasets/ccdv/cnn_dailymail, version 3.0.0.

    Args:
        source, max_seq_len, filter_fn, split, load_dataset_kwargs: see
            :class:`~torchtune.datasets.TextCompletionDataset`
    """
    options = {"column": "article", "name": "3.0.0", "split": split, "filter_fn": filter_fn} | load_dataset_kwargs
    return TextCompletionDataset(tokenizer, source, max_seq_len=max_seq_len, **options)


def wikitext_dataset(
    tokenizer: Any,
    source: str = "EleutherAI/wikitext_document_level",
    subset: str = "wikitext-103-v1",
    max_seq_len: int | None = None,
    packed: bool | str = False,
    filter_fn: Callable | None = None,
    split: str = "train",
    *,
    split_across_pack: bool = True,
    **load_dataset_kwargs: Unpack[TextArguments],
) -> TextCompletionDataset | PackedDataset | PackedStream:
    """Articles of Wikipedia: https://huggingface.co/datasets/EleutherAI/wikitext_document_level.

    Args:
        subset: which edition; the dataset's ``name``
        source, max_seq_len, packed, filter_fn, split, split_across_pack, load_dataset_kwargs: see
            :func:`~torchtune.datasets.text_completion_dataset`
    """
    load_dataset_kwargs = {
        "column": "page",
        "name": subset,
        "split": split,
        "filter_fn": filter_fn,
    } | load_dataset_kwargs
    options = {"packed": packed, "split_across_pack": split_across_pack, "max_seq_len": max_seq_len}
    return text_completion_dataset(tokenizer, source, **options, **load_dataset_kwargs)
