"""Settings of each dataset. The class names are what ``--dataset`` and ``--samsum_dataset.test_split`` say.

Where a field is new here, its comment says so.
"""

from dataclasses import dataclass

_FOLDER = "src/llama_recipes/datasets"  # below the current folder, as in a checkout of llama_recipes


@dataclass
class samsum_dataset:
    dataset: str = "samsum_dataset"
    train_split: str = "train"
    test_split: str = "validation"
    source: str = "Samsung/samsum"  # new: a copy of it, since the Hub has it no more


@dataclass
class grammar_dataset:
    dataset: str = "grammar_dataset"
    train_split: str = f"{_FOLDER}/grammar_dataset/gtrain_10k.csv"
    test_split: str = f"{_FOLDER}/grammar_dataset/grammar_validation.csv"


@dataclass
class alpaca_dataset:
    dataset: str = "alpaca_dataset"
    train_split: str = "train"
    test_split: str = "val"
    data_path: str = f"{_FOLDER}/alpaca_data.json"


@dataclass
class custom_dataset:
    dataset: str = "custom_dataset"
    file: str = "getting-started/finetuning/datasets/custom_dataset.py"
    train_split: str = "train"
    test_split: str = "validation"
    data_path: str = ""


@dataclass
class llamaguard_toxicchat_dataset:
    dataset: str = "llamaguard_toxicchat_dataset"
    train_split: str = "train"
    test_split: str = "test"
    source: str = "lmsys/toxic-chat"  # new: a local copy
