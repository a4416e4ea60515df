"""What the `datasets` package reads for us, and its errors in one message."""

import json
import logging

import datasets
import pytest

from torchtune.datasets._source import load_rows, open_units
from torchtune.errors import ConfigError, DataError

ROWS = [{"a": i, "b": str(i)} for i in range(10)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    datasets.disable_progress_bars()
    return tmp_path


def test_parquet_as_source_and_as_data_file(folder):
    datasets.Dataset.from_list(ROWS).to_parquet("a.parquet")
    cache = str(folder / "cache")
    rows = load_rows("a.parquet", "train[2:5]", cache_dir=cache)
    assert [rows[i] for i in range(len(rows))] == ROWS[2:5]
    assert rows.where(1) == "parquet, split train[2:5], row 2"
    same = load_rows("parquet", "train[2:5]", data_files="a.parquet", cache_dir=cache)
    other = load_rows("parquet", "train[2:6]", data_files="a.parquet", cache_dir=cache)
    assert rows.fingerprint() == same.fingerprint() != other.fingerprint()


def test_other_arguments_reach_load_dataset(folder, caplog):
    with caplog.at_level(logging.INFO):
        rows = load_rows("json", data_files="a.jsonl", cache_dir=str(folder / "cache"), encoding="latin-1")
    assert not rows.is_local and rows[3] == ROWS[3]
    assert "the `datasets` package reads the json files, because of the argument cache_dir: " in caplog.text
    with pytest.raises(ConfigError, match="does not accept these arguments.*nonsense"):
        load_rows("json", data_files="a.jsonl", cache_dir=str(folder / "cache"), nonsense=1)


def test_a_wrong_split_names_those_there_are(folder):
    with pytest.raises(DataError, match=r"split 'test'.*\['train'\]"):
        load_rows("json", "test", data_files="a.jsonl", cache_dir=str(folder / "cache"))


def test_several_splits_that_are_not_joined(folder):
    with pytest.raises(
        ConfigError, match=r"split is \['train', 'train'\]; it must be one split, or several as in train"
    ):
        load_rows("json", ["train", "train"], data_files="a.jsonl", cache_dir=str(folder / "cache"))


def test_no_split_is_the_usual_one(folder):
    rows = load_rows("json", None, data_files="a.jsonl", cache_dir=str(folder / "cache"))
    assert len(rows) == 10 and rows.where(0) == "json, split train, row 1"


def test_malformed_data_says_more_than_generation_failed(folder):
    (folder / "bad.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="(?s)parquet.*magic bytes"):
        load_rows("bad.parquet", cache_dir=str(folder / "cache"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Couldn't reach 'some/data' on the Hub"), "'some/data'.*cannot be reached"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'some/data' doesn't exist"), "Check the name"),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'some/data' is a gated dataset on the Hub."),
            "Ask for access on https://huggingface.co/datasets/some/data",
        ),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "scripts"),
    ],
)
def test_errors_of_the_hub_become_one_message(monkeypatch, error, message):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=message) as caught:
        load_rows("some/data")
    assert len(str(caught.value).splitlines()) == 1


def test_what_save_to_disk_wrote(folder):
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk("one")
    datasets.DatasetDict({"train": table, "test": table.select(range(3))}).save_to_disk("two")
    for source, split, expected in (
        ("one", "train", ROWS),
        ("one", "train[:20%]", ROWS[:2]),
        ("two", "test", ROWS[:3]),
        ("two", "train[8:]+test", ROWS[8:] + ROWS[:3]),
    ):
        rows = load_rows(source, split)
        assert [rows[i] for i in range(len(rows))] == expected
        assert rows.fingerprint() == load_rows(source, split).fingerprint()
        streamed = [placed.row for unit in open_units(source, split) for placed in unit.rows()]
        assert streamed == expected
    with pytest.raises(DataError, match="no split 'validation'; the splits are train, test"):
        load_rows("two", "validation")
    with pytest.raises(ConfigError, match="'one' is from save_to_disk and takes no revision"):
        load_rows("one", revision="main")
    with pytest.raises(ConfigError, match="source is 'two', and data_files names other files"):
        load_rows("two", data_files="a.jsonl")
