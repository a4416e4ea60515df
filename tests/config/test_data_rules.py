"""Weights in a list of datasets, and what a validation set cannot have."""

import pytest

from torchtune.config import check, load
from torchtune.config.schema import FinetuneConfig

ONE, TWO = ("{_component_: torchtune.datasets.alpaca_dataset, source: a.json%s}",) * 2


def faults(*words):
    return [str(p) for p in check(load("config.yaml", words), FinetuneConfig)]


def entries(*options: str) -> str:
    return "dataset=[" + ", ".join(ONE % option for option in options) + "]"


@pytest.mark.parametrize(
    "words",
    [
        [entries(", weight: 1", ", weight: 0.5")],
        [entries(", weight: 1", ", weight: 0.5"), "mixture_stop=first_exhausted"],
        [entries("", "")],
        ["dataset=[{_component_: parts.dataset_of_another_kind, path: x, weight: 2}]"],
    ],
)
def test_weights_are_of_an_entry_and_no_argument_of_its_builder(parts, words):
    assert faults(*words) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([entries(", weight: 1", "")], "some of the datasets in the list have a weight and some have none"),
        ([entries(", weight: 0", ", weight: 1")], "dataset.0.weight must be a finite number above 0, found 0"),
        ([entries(", weight: half")], "found 'half'"),
        ([entries(", weight: '3'", ", weight: 1")], "dataset.0.weight must be a finite number above 0, found '3'"),
        ([entries(", weight: 1", ", weight: null")], "dataset.1.weight must be a finite number above 0, found null"),
        ([entries(", weight: null", ", weight: null")], "dataset.0.weight must be a finite number above 0, found null"),
        ([entries(", weight: .inf", ", weight: 1")], "dataset.0.weight must be a finite number above 0, found inf"),
        ([entries(", weight: .nan", ", weight: 1")], "dataset.0.weight must be a finite number above 0, found nan"),
        ([entries(", weight: true", ", weight: 1")], "dataset.0.weight must be a finite number above 0, found True"),
        ([f"dataset={ONE % ', weight: 1'}"], "dataset.weight is for an entry of a list"),
        (["mixture_stop=all_exhausted"], "a list whose entries have a weight"),
        (["mixture_stop=never"], "one of first_exhausted, all_exhausted"),
        ([f"dataset_val=[{ONE % ', weight: 1'}]"], "every sample counts once"),
        ([f"dataset_val={ONE % ', streaming: True'}"], "a validation set is read whole"),
        (["datasets=[{source: a}]"], "whose entries may have a `weight`"),
    ],
)
def test_what_is_refused(parts, words, message):
    found = faults(*words)
    assert len(found) == 1 and message in found[0]
