"""Which columns are asked for, however a row is read."""

import copy
import json
import pickle

import pytest
from letters import Letters

from torchtune import datasets
from torchtune.datasets._columns import Columns

ROW = {"a": 1, "b": [2], "c": None}
WHOLE = [
    dict,
    list,
    copy.copy,
    copy.deepcopy,
    json.dumps,
    lambda row: pickle.loads(pickle.dumps(row)),
    lambda row: {**row},
    lambda row: row | {},
    lambda row: row.copy(),
    lambda row: list(row.items()),
    lambda row: "{a}".format(**row),
]


@pytest.mark.parametrize("read", WHOLE)
def test_whoever_goes_through_a_row_asks_for_all(read):
    columns = Columns()
    columns.count(ROW)
    assert read(columns.watched(ROW)) == read(dict(ROW)) and columns.unused == []


@pytest.mark.parametrize(
    "read",
    [lambda row: row["a"], lambda row: row.get("a"), lambda row: row.pop("a"), lambda row: row.setdefault("a", 3)],
)
def test_one_column(read):
    columns = Columns()
    columns.count(ROW)
    assert read(columns.watched(ROW)) == 1 and columns.unused == ["b", "c"]
    assert [columns.filled(name) for name in ROW] == [1, 1, 0] and list(ROW) == ["a", "b", "c"]


def test_the_order_is_that_of_the_first_row():
    columns = Columns()
    for row in ({"b": 1, "a": 2}, {"a": 3, "c": 4}):
        columns.count(row)
    assert columns.unused == ["b", "a", "c"]


def test_a_dataset_is_the_same_whatever_was_noted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"input": "a", "output": "b"}\n' * 200)

    def keeps(row):
        return row["input"] == "a" or row["later"]

    options = {"source": str(path), "filter_fn": keeps}
    made = [datasets.instruct_dataset(Letters(), streaming=on, **options) for on in (False, True) for _ in range(2)]
    assert made[0].tokens_fingerprint() == made[1].tokens_fingerprint() is not None
    list(made[2])
    assert made[2].fingerprint() == made[3].fingerprint()
