"""Split expressions, against the `datasets` package."""

import numpy as np
import pytest

from torchtune.datasets._slices import select_rows
from torchtune.errors import DataError

EXPRESSIONS = [
    "train",
    "all",
    "train[:95%]",
    "train[95%:]",
    "train[:100]",
    "train[10:20]",
    "train[-5:]",
    "train[:-7]",
    "train[-200:]",
    "train[:300]",
    "train[33%:66%]",
    "train[-10%:]",
    "train[:-5%]",
    "train[:]",
    "train[1_0:20]",
    "train[:100%]",
    "train[:33%]+test[50%:]",
    "test + train[1:3]",
    "train+train",
    "train[:10%](closest)",
    "train[7%:](pct1_dropremainder)",
]


def oracle(expression: str, lengths: dict[str, int]) -> list[tuple[str, int]]:
    from datasets import ReadInstruction

    if expression == "all":
        return [(name, row) for name in lengths for row in range(lengths[name])]
    parts = ReadInstruction.from_spec(expression).to_absolute(lengths)
    return [(part.splitname, row) for part in parts for row in range(part.from_, part.to)]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("train", [107, 150, 210, 1000])
def test_same_rows_as_the_datasets_package(expression, train):
    lengths = {"train": train, "test": 130}
    rows, names = select_rows(expression, lengths)
    end_to_end = [(name, row) for name in names for row in range(lengths[name])]
    assert [end_to_end[row] for row in rows] == oracle(expression, lengths)


@pytest.mark.parametrize("length", range(101, 160, 7))
def test_every_percentage_is_rounded_alike(length):
    for percent in range(1, 100):
        for expression in (f"train[:{percent}%]", f"train[{percent}%:]", f"train[-{percent}%:]"):
            rows, _ = select_rows(expression, {"train": length})
            assert np.array_equal(rows, [row for _, row in oracle(expression, {"train": length})]), expression


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("train[2.5%:]", "cannot be read"),
        ("train[", "cannot be read"),
        ("train[5]", "cannot be read"),
        ("", "cannot be read"),
        ("test", "no split 'test'; the splits are train"),
        ("train[:150%]", "between -100 and 100"),
        ("train[10%:20]", "one unit"),
        ("train[:5](closest)", "percentages only"),
        ("train[:50%](floor)", "floor"),
        ("train[5:3]", "no row; train has 107 rows"),
        ("train[107:]", "no row"),
    ],
)
def test_refused_with_a_reason(expression, message):
    with pytest.raises(DataError, match=message):
        select_rows(expression, {"train": 107})
