"""Datasets: where rows come from, and how they become samples."""

from torchtune.datasets._alpaca import alpaca_cleaned_dataset, alpaca_dataset
from torchtune.datasets._concat import ConcatDataset
from torchtune.datasets._packed import PackedDataset
from torchtune.datasets._sft import SFTDataset

__all__ = ["ConcatDataset", "PackedDataset", "SFTDataset", "alpaca_cleaned_dataset", "alpaca_dataset"]
