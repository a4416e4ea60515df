"""A function in the user's file makes the dataset: through a config, and as llama_recipes calls it."""

import json
import sys

import numpy as np
import pytest
from letters import Letters
from tokenizer_files import byte_tokenizer

from llama_recipes.configs import datasets as settings
from llama_recipes.datasets import custom_dataset
from llama_recipes.utils.dataset_utils import get_preprocessed_dataset
from torchtune.config._allow import ENVIRONMENT
from torchtune.errors import ConfigError, DataError, MissingDependency

FILE = """
def get_custom_dataset(dataset_config, tokenizer, split):
    return [{"input_ids": [1, 2], "labels": [-100, 2], "attention_mask": [1, 1]}]


def get_foo(dataset_config, tokenizer, split):
    ids = tokenizer.encode(dataset_config.data_path + split)
    return [{"input_ids": ids, "labels": ids}]


def get_given(dataset_config, tokenizer, split):
    return dataset_config.given
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path


def test_the_function_by_its_usual_name(here):
    dataset = custom_dataset(Letters(), file="mine.py")
    assert len(dataset) == 1 and dataset[0] == {"tokens": [1, 2], "labels": [-100, 2]}
    assert dataset.where(0) == "mine.py, sample 1"


def test_another_function_gets_settings_tokenizer_and_split(here):
    dataset = custom_dataset(Letters(), file="mine.py:get_foo", split="dev", data_path="my ")
    assert "".join(map(chr, dataset[0]["tokens"])) == "\x02my dev\x03"


def test_as_llama_recipes_calls_it(here):
    config = settings.custom_dataset(file=str(here / "mine.py:get_foo"), data_path="x", test_split="dev")
    assert len(get_preprocessed_dataset(Letters(), config, "train")[0]["input_ids"]) == len("xtrain") + 2
    assert len(get_preprocessed_dataset(Letters(), config, "validation")[0]["input_ids"]) == len("xdev") + 2


def test_a_tokenizer_of_transformers(here, monkeypatch):
    (here / "model").mkdir()
    byte_tokenizer(here / "model" / "tokenizer.json", ["<s>"])
    (here / "model" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    dataset = custom_dataset(Letters(), file="mine.py:get_foo", tokenizer_name="model")
    assert len(dataset[0]["tokens"]) == len("train")  # bytes, and no marks
    (here / "empty").mkdir()
    for name in ("empty", "/nowhere"):
        with pytest.raises(ConfigError, match=f"dataset.tokenizer_name: transformers reads no tokenizer from {name}"):
            custom_dataset(Letters(), file="mine.py:get_foo", tokenizer_name=name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match="pip install transformers"):
        custom_dataset(Letters(), file="mine.py:get_foo", tokenizer_name="model")


def test_padding_is_left_out_and_arrays_are_taken(here):
    padded = {"input_ids": np.array([0, 5, 6]), "labels": np.array([-100, 5, 6]), "attention_mask": [False, True, True]}
    assert custom_dataset(Letters(), file="mine.py:get_given", given=[padded])[0] == {
        "tokens": [5, 6],
        "labels": [5, 6],
    }


def test_packed(here):
    packs = custom_dataset(Letters(max_seq_len=4), file="mine.py:get_given", packed=True, given=[
        {"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [3, 4], "labels": [3, 4]}
    ])  # fmt: skip
    assert packs[0]["tokens"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("sample, said", [
    ({"tokens": [1]}, r"sample 1: expected input_ids and labels, found \['tokens'\]"),
    ([1], "found list"),
    ({"input_ids": [1, 2], "labels": [1]}, r"input_ids \[2\], labels \[1\]"),
    ({"input_ids": [[1]], "labels": [[1]]}, r"input_ids \[1, 1\]"),
])  # fmt: skip
def test_a_wrong_sample_is_named(sample, said, here):
    with pytest.raises(DataError, match=said):
        custom_dataset(Letters(), file="mine.py:get_given", given=[sample])[0]


def test_what_is_no_dataset(here):
    with pytest.raises(ConfigError, match="gave a generator; expected samples by number"):
        custom_dataset(Letters(), file="mine.py:get_given", given=(each for each in ()))


# The kinds and texts of these errors are what callers of llama_recipes know.
@pytest.mark.parametrize("file, kind, said", [
    ("mine.txt", ValueError, "Dataset file mine.txt is not a .py file."),
    ("absent.py", FileNotFoundError, "Dataset py file absent.py does not exist or is not a file."),
    ("mine.py:get_bar", AttributeError, "no function get_bar; it has get_custom_dataset, get_foo, get_given"),
])  # fmt: skip
def test_a_file_or_function_that_is_not_there(file, kind, said, here):
    for call in (
        lambda: custom_dataset(Letters(), file=file),
        lambda: get_preprocessed_dataset(Letters(), settings.custom_dataset(file=file)),
    ):
        with pytest.raises(kind, match=said) as caught:
            call()
        assert isinstance(caught.value, ConfigError) and caught.type.__name__ == "ConfigError"


def test_a_config_does_not_choose_code_elsewhere(here, monkeypatch):
    (here / "inside").mkdir()
    monkeypatch.chdir(here / "inside")
    with pytest.raises(ConfigError, match="outside the current folder.*--allow-component"):
        custom_dataset(Letters(), file="../mine.py")
    monkeypatch.setenv(ENVIRONMENT, "llama_recipes.datasets.custom_dataset")
    assert len(custom_dataset(Letters(), file="../mine.py")) == 1
