"""Rows from files: what is read, and what an unusable file is told, with its line."""

import json
import os
import pickle
import subprocess
import sys

import pytest

import torchtune
from torchtune.datasets._source import load_rows
from torchtune.errors import ConfigError, DataError

ROWS = [{"instruction": f"say {i}", "output": "ä🙂\u2028" * i} for i in range(5)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, content) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path.name


def lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def rows_of(*args, **kwargs) -> list[dict]:
    rows = load_rows(*args, **kwargs)
    return [rows[i] for i in range(len(rows))]


@pytest.mark.parametrize(
    "content",
    [
        lines(ROWS),
        lines(ROWS).rstrip("\n"),
        lines(ROWS).replace("\n", "\r\n"),
        lines(ROWS).replace("\n", "\n\n  \n"),
        "\ufeff" + lines(ROWS),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2, ensure_ascii=False),
        "\ufeff\n " + json.dumps(ROWS, indent=2, ensure_ascii=False) + "\n",
    ],
    ids=["lines", "no end", "crlf", "blank lines", "bom", "list", "indented list", "list with bom"],
)
def test_json_and_json_lines(folder, content):
    name = write(folder / "a.json", content)
    assert rows_of("json", data_files=name) == ROWS
    assert rows_of(name) == ROWS
    assert rows_of("json", "train[1:3]", data_files=[name]) == ROWS[1:3]


def test_several_files_patterns_and_splits(folder, monkeypatch):
    write(folder / "b.jsonl", lines(ROWS[2:]))
    write(folder / "a.jsonl", lines(ROWS[:2]))
    assert rows_of("json", data_files="*.jsonl") == ROWS
    assert rows_of("json", data_files=["b.jsonl", "a.jsonl"]) == ROWS[2:] + ROWS[:2]
    splits = {"train": "a.jsonl", "test": "b.jsonl"}
    assert rows_of("json", "test[:1]", data_files=splits) == ROWS[2:3]
    assert rows_of("json", "test[:1]+train", data_files=splits) == ROWS[2:3] + ROWS[:2]
    assert rows_of("json", "all", data_files=splits) == ROWS
    monkeypatch.setenv("HOME", str(folder))
    assert rows_of("~/b.jsonl") == rows_of("json", data_files="~/b.jsonl") == ROWS[2:]
    with pytest.raises(DataError, match="no split 'val'; the splits are train, test"):
        load_rows("json", "val", data_files=splits)


def test_rows_of_a_field(folder):
    name = write(folder / "a.json", json.dumps({"version": 1, "data": ROWS}))
    rows = load_rows("json", data_files=name, field="data")
    assert rows[4] == ROWS[4] and rows.where(4) == "a.json, data element 5"
    with pytest.raises(DataError, match="no field 'rows'; the fields are version, data"):
        load_rows("json", data_files=name, field="rows")
    with pytest.raises(DataError, match="must be a list of objects, found 1"):
        load_rows("json", data_files=name, field="version")


def test_rows_know_their_file_and_line(folder):
    write(folder / "a.jsonl", "\n" + lines(ROWS[:2]))
    write(folder / "b.json", json.dumps(ROWS, indent=1))
    rows = load_rows("json", "train[1:]", data_files=["a.jsonl", "b.json"])
    assert rows.where(0) == "a.jsonl, line 3"
    assert rows.where(1) == "b.json, line 2"
    assert rows.where(2) == "b.json, line 6"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": 2\n', r"x.json, line 2, column 8: not valid JSON: Expecting ',' delimiter"),
        ('{"a": 1}\n\n{"a": tru}\n', r"x.json, line 3, column 7: not valid JSON.*>>> tru"),
        ('{"a": 1}\n[1]\n', "x.json, line 2: expected an object, found a list"),
        ('{"a": 1}\n"text"\n', "x.json, line 2: expected an object, found a string"),
        ('{"a": 1}\nnull\n', "x.json, line 2: expected an object, found null"),
        (b'{"a": "x"}\n{"a": "\xff"}\n', "x.json, line 2: byte 0xff is not UTF-8"),
        ('{"a": "x"}\n{"a": "\\ud83d"}\n', "x.json, line 2: .*stands alone"),
        ('{"a": ' + "[" * 200_000 + "\n", "x.json, line 1: the JSON is nested too deeply"),
        ("", "x.json holds no rows"),
        (" \n\n", "x.json holds no rows"),
        ("[]", "x.json holds no rows"),
        ('[{"a": 1},\n {"a": 2}\n {"a": 3}]', r"x.json, line 3, column 2: not valid JSON: expected ',' or '\]'"),
        ('[{"a": 1},\n {"a": }]', "x.json, line 2, column 8: not valid JSON"),
        ('[{"a": 1},\n\n 7]', "x.json, line 3: expected an object, found 7"),
        ('[{"a": 1},\n]', "x.json, line 2, column 1: not valid JSON"),
        ('[{"a": 1}\n', "x.json, line 2, column 1: not valid JSON"),
        ('[{"a": 1}]\n[{"a": 2}]', "x.json, line 2: text behind the end"),
        (b'[{"a": 1},\n{"a": "\xe4"}]', "x.json, line 2: byte 0xe4 is not UTF-8"),
        ('{\n "version": 1,\n "data": [{"a": 1}]\n}', "x.json, line 1.*`field: data`"),
    ],
)
def test_unusable_json_is_refused_with_file_and_line(folder, content, message):
    name = write(folder / "x.json", content)
    with pytest.raises(DataError, match=message):
        rows_of("json", data_files=name)


def test_csv_rows_are_text(folder):
    write(folder / "a.csv", '\ufeffinstruction,output\n"a ""b"",\nc",1\n\nd,\n')
    write(folder / "a.tsv", "instruction\toutput\na,b\t1\n")
    rows = load_rows("a.csv")
    assert [rows[0], rows[1]] == [{"instruction": 'a "b",\nc', "output": "1"}, {"instruction": "d", "output": ""}]
    assert [rows.where(0), rows.where(1)] == ["a.csv, line 2", "a.csv, line 5"]
    assert rows_of("a.tsv") == [{"instruction": "a,b", "output": "1"}]
    assert rows_of("csv", data_files="a.tsv", sep="\t") == [{"instruction": "a,b", "output": "1"}]


def test_csv_cells_may_be_long(folder):
    import csv

    limit = csv.field_size_limit()
    write(folder / "a.csv", "a,b\n" + "x" * 300_000 + ",y\n")
    assert len(load_rows("a.csv")[0]["a"]) == 300_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "x.csv is empty"),
        ("a,b\n", "a header and no rows"),
        ("a,a\n1,2\n", "column name stands twice"),
        ("a,,c\n1,2,3\n", "column 2 of the header has no name"),
        ("a,b\n1,2\n3\n", "x.csv, line 3: 1 cells, and the header has 2"),
        ('a,b\n"1\n2",2\n1,2,3\n', "x.csv, line 4: 3 cells"),
        ('a,b\n1,2\n"open,2\n', "x.csv, line 3: not valid CSV"),
        ("a;b\n1;2\n", "`delimiter` ';'"),
        (b"a,b\n1,\xfc\n", "x.csv, line 2: byte 0xfc is not UTF-8"),
    ],
)
def test_unusable_csv_is_refused_with_file_and_line(folder, content, message):
    name = write(folder / "x.csv", content)
    with pytest.raises(DataError, match=message):
        rows_of("csv", data_files=name)


def test_missing_files_and_arguments(folder):
    write(folder / "train.jsonl", lines(ROWS))
    with pytest.raises(DataError, match=r"no data file 'trian.jsonl'.*there is train.jsonl"):
        load_rows("json", data_files="trian.jsonl")
    with pytest.raises(DataError, match=r"no data file 'trian.jsonl'.*there is train.jsonl"):
        load_rows("trian.jsonl")
    with pytest.raises(DataError, match="there is no folder"):
        load_rows("json", data_files="data/*.jsonl")
    with pytest.raises(ConfigError, match="data_files"):
        load_rows("json")
    with pytest.raises(ConfigError, match="one of the two"):
        load_rows("train.jsonl", data_files="train.jsonl")
    with pytest.raises(ConfigError, match="empty list"):
        load_rows("json", data_files=[])
    with pytest.raises(ConfigError, match="name or a path"):
        load_rows(None)


def test_rows_can_be_sent_to_another_process(folder):
    rows = load_rows(write(folder / "a.jsonl", lines(ROWS)))
    assert rows[1] == ROWS[1]
    assert pickle.loads(pickle.dumps(rows))[2] == ROWS[2]


def test_a_file_that_changed_meanwhile_is_noticed(folder):
    rows = load_rows(write(folder / "a.jsonl", lines(ROWS)))
    (folder / "a.jsonl").write_text("x" * 500)
    with pytest.raises(DataError, match="a.jsonl, line 2"):
        rows[1]


def test_fingerprint_follows_content_and_choice_but_not_place_or_time(folder):
    first = load_rows(write(folder / "a.jsonl", lines(ROWS))).fingerprint()
    assert load_rows(write(folder / "b.jsonl", lines(ROWS))).fingerprint() == first
    assert load_rows("a.jsonl", "train[:4]").fingerprint() != first
    assert load_rows(write(folder / "c.jsonl", lines(ROWS[:4]) + '{"a": 1}\n')).fingerprint() != first


def test_json_lines_need_neither_the_datasets_package_nor_pandas(folder):
    write(folder / "a.jsonl", lines(ROWS))
    code = (
        "import sys, torchtune.datasets\n"
        "from torchtune.datasets._source import load_rows\n"
        "assert len(load_rows('json', 'train[:60%]', data_files='a.jsonl')) == 3\n"
        "print([name for name in ('datasets', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(torchtune.__file__))}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
