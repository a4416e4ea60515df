"""Datasets: where rows come from, and how they become samples."""

from torchtune.datasets._alpaca import alpaca_cleaned_dataset, alpaca_dataset
from torchtune.datasets._concat import ConcatDataset
from torchtune.datasets._hub_rows import (
    cnn_dailymail_articles_dataset,
    grammar_dataset,
    hh_rlhf_helpful_dataset,
    samsum_dataset,
    slimorca_dataset,
    wikitext_dataset,
)
from torchtune.datasets._instruct import chat_dataset, instruct_dataset
from torchtune.datasets._mixture import MixtureDataset, MixtureStream
from torchtune.datasets._packed import PackedDataset
from torchtune.datasets._packed_stream import PackedStream
from torchtune.datasets._preference import PreferenceDataset, preference_dataset, stack_exchange_paired_dataset
from torchtune.datasets._sft import SFTDataset
from torchtune.datasets._text_completion import TextCompletionDataset, text_completion_dataset

__all__ = [
    "ConcatDataset", "MixtureDataset", "MixtureStream", "PackedDataset", "PackedStream", "PreferenceDataset",
    "SFTDataset", "TextCompletionDataset",
    "alpaca_cleaned_dataset", "alpaca_dataset", "chat_dataset", "cnn_dailymail_articles_dataset", "grammar_dataset",
    "hh_rlhf_helpful_dataset", "instruct_dataset", "preference_dataset", "samsum_dataset", "slimorca_dataset",
    "stack_exchange_paired_dataset", "text_completion_dataset", "wikitext_dataset",
]  # fmt: skip
