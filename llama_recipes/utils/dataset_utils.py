"""The datasets as functions of settings, a tokenizer of `transformers` and a split."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset

from llama_recipes.datasets import alpaca_dataset, grammar_dataset, llamaguard_toxicchat_dataset, samsum_dataset
from llama_recipes.datasets._custom import get_custom_dataset

__all__ = ["DATASET_PREPROC", "get_custom_dataset", "get_preprocessed_dataset"]


class _Plain:
    """A tokenizer of `transformers`, as the datasets use one: its marks are written into the text, as there."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.eos_id = tokenizer.eos_token_id
        self.special_tokens = tokenizer.get_added_vocab()

    def encode(self, text: str, add_bos: bool, add_eos: bool) -> list[int]:
        begin = (self._tokenizer.bos_token or "") if add_bos else ""
        end = self._tokenizer.eos_token if add_eos else ""
        return self._tokenizer.encode(begin + text + end, add_special_tokens=False)


class _InputIds(Dataset):
    """Samples under the names that models of `transformers` take them."""

    def __init__(self, samples: Dataset) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        sample = self._samples[index]
        ids = sample["tokens"]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": sample["labels"]}


def _samsum(config: Any, tokenizer: Any, split: str) -> Dataset:
    return _InputIds(samsum_dataset(_Plain(tokenizer), source=config.source, split=split))


def _grammar(config: Any, tokenizer: Any, split: str) -> Dataset:
    return _InputIds(grammar_dataset(_Plain(tokenizer), source=split))


def _alpaca(config: Any, tokenizer: Any, split: str) -> Dataset:
    return _InputIds(alpaca_dataset(_Plain(tokenizer), source=config.data_path, split=split))


def _toxicchat(config: Any, tokenizer: Any, split: str) -> Dataset:
    return _InputIds(llamaguard_toxicchat_dataset(_Plain(tokenizer), source=config.source, split=split))


DATASET_PREPROC: dict[str, Callable[[Any, Any, str], Any]] = {
    "alpaca_dataset": _alpaca,
    "grammar_dataset": _grammar,
    "samsum_dataset": _samsum,
    "custom_dataset": get_custom_dataset,
    "llamaguard_toxicchat_dataset": _toxicchat,
}


def get_preprocessed_dataset(tokenizer: Any, dataset_config: Any, split: str = "train") -> Any:
    """The samples of the dataset that the settings name.

    Args:
        tokenizer: of `transformers`
        dataset_config: one of ``llama_recipes.configs.datasets``
        split: ``train`` is the settings' ``train_split``, anything else their ``test_split``

    Returns:
        Samples with ``input_ids``, ``attention_mask`` and ``labels``, which are not shifted; -100 is not trained on.
        For ``custom_dataset``, whatever the function gives.

    Raises:
        AssertionError: there is no such dataset
    """
    name = dataset_config.dataset
    if name not in DATASET_PREPROC:
        raise AssertionError(f"Unknown dataset: {name}; expected {', '.join(DATASET_PREPROC)}")
    part = dataset_config.train_split if split == "train" else dataset_config.test_split
    return DATASET_PREPROC[name](dataset_config, tokenizer, part)
