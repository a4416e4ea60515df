"""Rows from files: what is read, and what an unusable file is told, with its line."""

import bz2
import gzip
import json
import lzma
import os
import pickle
import subprocess
import sys

import pytest
from letters import Letters

import torchtune
from torchtune.datasets import instruct_dataset
from torchtune.datasets._records import check_encoding
from torchtune.datasets._source import load_rows, open_units
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
    assert rows[4] == ROWS[4] and rows.where(4) == "a.json, line 1, item 5"
    indented = load_rows(write(folder / "b.json", json.dumps({"x": {"data": 7}, "data": ROWS}, indent=1)), field="data")
    assert [indented[i] for i in range(5)] == ROWS and indented.where(1) == "b.json, line 10, item 2"
    assert rows.fingerprint() != load_rows("a.json").fingerprint()
    with pytest.raises(DataError, match="no field 'rows'; the fields are version, data"):
        load_rows("json", data_files=name, field="rows")
    with pytest.raises(DataError, match="must be a list of objects, found 1"):
        load_rows("json", data_files=name, field="version")
    with pytest.raises(DataError, match="d.json, line 2: the key 'data' stands twice in one object"):
        load_rows(write(folder / "d.json", '{"data": [{}],\n"data": [{}]}'), field="data")
    with pytest.raises(
        DataError, match="l.json: `field: data` is for a file that holds one object; this one holds a list"
    ):
        load_rows(write(folder / "l.json", "[{}]"), field="data")


def test_the_same_bytes_read_in_another_way_are_other_rows(folder):
    write(folder / "a.json", json.dumps({"a": ROWS, "b": ROWS}))
    write(folder / "a.csv", "a;b,c\n1;2,3\n")
    write(folder / "a.txt", "one\n\ntwo\n")
    found = [load_rows("a.json", field=field) for field in "ab"]
    found += [load_rows("a.csv", **options) for options in ({}, {"delimiter": ";"}, {"encoding": "latin-1"})]
    found += [load_rows("a.txt", **options) for options in ({}, {"sample_by": "paragraph"}, {"encoding": "cp1252"})]
    assert len({rows.fingerprint() for rows in found}) == len(found)
    assert load_rows("a.csv", delimiter=",", encoding="utf-8-sig").fingerprint() == found[2].fingerprint()


def test_rows_know_their_file_and_line(folder):
    write(folder / "a.jsonl", "\n" + lines(ROWS[:2]))
    write(folder / "b.json", json.dumps(ROWS, indent=1))
    rows = load_rows("json", "train[1:]", data_files=["a.jsonl", "b.json"])
    assert rows.where(0) == "a.jsonl, line 3"
    assert rows.where(1) == "b.json, line 2, item 1"
    assert rows.where(2) == "b.json, line 6, item 2"


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
        ('[{"a": 1},\n\n 7]', "x.json, line 3, item 2: expected an object, found 7"),
        ('[{"a": ' + "[" * 200_000, "x.json, line 1, item 1: the JSON is nested too deeply"),
        ('[{"a": "\\ud83d"}]', "x.json, line 1, item 1: .*stands alone"),
        ('[{"a": 1},\n]', "x.json, line 2, column 1: not valid JSON"),
        ('[{"a": 1}\n', "x.json, line 2, column 1: not valid JSON"),
        ('[{"a": 1}]\n[{"a": 2}]', "x.json, line 2: text behind the end"),
        (b'[{"a": 1},\n{"a": "\xe4"}]', "x.json, line 2: byte 0xe4 is not UTF-8"),
        ('{"a": \x1b}', r"not valid JSON: Expecting value, at >>> in: {\"a\":  >>> \\x1b}$"),
        ('{"a": 1, "b": {"c": 2, "c": 3}}', "x.json, line 1: the key 'c' stands twice in one object"),
        ('{"a": 1}\n\n{"a": 1, "b": 2, "a": 1}\n', "x.json, line 3: the key 'a' stands twice in one object"),
        ('[{"a": 1},\n{"b": 1,\n"b": 2}]', "x.json, line 2, item 2: the key 'b' stands twice in one object"),
    ],
)
def test_unusable_json_is_refused_with_file_and_line(folder, content, message):
    name = write(folder / "x.json", content)
    with pytest.raises(DataError, match=message):
        rows_of("json", data_files=name)


@pytest.mark.parametrize("streaming", [False, True], ids=["", "streaming"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n "version": 1,\n "data": [{"a": 1}]\n}', "x.json is one object over several lines.*`field: data`"),
        ('\n\n{\n "a": 1,\n "b": ["c"]\n}\n', "x.json is one object over several lines; expected one object per line"),
        ('{\n "a": 1\n}\n{\n "a": 2\n}\n', "the object that begins in line 1 ends in line 3; .*`jq -c . x.json"),
        (b'\xef\xbb\xbf{"a":\n"\xfc"}', "x.json is one object over several lines"),
    ],
)
def test_json_of_objects_over_several_lines_is_told_as_such(folder, content, message, streaming):
    name = write(folder / "x.json", content)
    with pytest.raises(DataError, match=message) as caught:
        (open_units if streaming else load_rows)("json", data_files=name)
    assert len(str(caught.value).splitlines()) == 1
    assert ("field" in str(caught.value)) == ("version" in str(content))


@pytest.mark.parametrize("indent", [None, 1])
def test_each_item_of_a_list_that_is_no_object_is_told(folder, indent):
    with pytest.raises(DataError) as caught:
        instruct_dataset(Letters(), source=write(folder / "x.json", json.dumps([1, "a"], indent=indent)))
    lines = (2, 3) if indent else (1, 1)
    assert str(caught.value).splitlines() == [
        f"x.json, line {lines[0]}, item 1: expected an object, found 1",
        f"x.json, line {lines[1]}, item 2: expected an object, found a string",
    ]


@pytest.mark.parametrize("rows, is_told", [([{"instruction": "a", "output": "b"}], True), (["a"], False), ([], False)])
def test_one_object_with_the_rows_below_a_key_in_one_line(folder, rows, is_told):
    for source in (json.dumps({"data": rows}), json.dumps([{"data": rows}])):
        with pytest.raises(DataError, match="'data'") as caught:
            instruct_dataset(Letters(), source=write(folder / "x.json", source + "\n"))
        assert ("`field: data`" in str(caught.value)) == is_told


OTHER_FORMS = {
    "x.jsonl": {
        b"PAR1\x15\x04": "x.jsonl is Parquet, and is read as json: set dataset.source: parquet",
        b"\x7fELF\x02\x00": "x.jsonl has zero bytes at its beginning, so it is no text",
        gzip.compress(b"{}", mtime=0): "compressed with gzip, .* end its name in .gz",
        bz2.compress(b"{}"): "compressed with bzip2",
        lzma.compress(b"{}"): "compressed with xz",
        b"PK\x03\x04\x00": "a ZIP archive or a spreadsheet",
        '{"a": 1}'.encode("utf-16"): "x.jsonl is UTF-16.*iconv -f UTF-16 -t UTF-8",
    },
    "x.parquet": {b"PAR1\x15\x04": "x.parquet is Parquet, and is read as json"},
    "x.csv": {
        b"a,b\n1,2\n": "x.csv is read as json, and neither its name nor its content is: set dataset.source: csv",
        b"PK\x03\x04\x00": "a ZIP archive or a spreadsheet",
    },
}


@pytest.mark.parametrize("read", [load_rows, open_units])
@pytest.mark.parametrize(("name", "head"), [(name, head) for name, heads in OTHER_FORMS.items() for head in heads])
def test_a_file_of_another_form_is_told_as_such(folder, name, head, read):
    with pytest.raises(DataError, match=OTHER_FORMS[name][head]) as caught:
        read("json", data_files=write(folder / name, head))
    assert str(caught.value).isprintable()


def test_json_that_is_read_as_csv(folder):
    with pytest.raises(DataError, match="x.jsonl is read as csv.*set dataset.source: json"):
        load_rows("csv", data_files=write(folder / "x.jsonl", lines(ROWS)))
    assert rows_of("json", data_files=write(folder / "x.csv", lines(ROWS))) == ROWS  # a name proves nothing


CAFE = {"instruction": "café “ok”", "output": "Straße €"}
ENCODED = {
    "a.jsonl": lambda: json.dumps(CAFE, ensure_ascii=False) + "\n\n" + json.dumps(CAFE),
    "a.json": lambda: json.dumps([CAFE, CAFE], ensure_ascii=False, indent=1),
    "field.json": lambda: json.dumps({"ä": "ü", "rows": [CAFE, CAFE]}, ensure_ascii=False, indent=1),
    "a.csv": lambda: "instruction,output\n" + "café “ok”,Straße €\n" * 2,
    "a.tsv": lambda: "instruction\toutput\n" + "café “ok”\tStraße €\n" * 2,
    "a.txt": lambda: "café “ok”\nStraße €\n",
}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8-sig", "gb18030", "UTF8"])
@pytest.mark.parametrize("name", ENCODED)
def test_an_encoding(folder, name, encoding):
    write(folder / name, ENCODED[name]().encode(encoding))
    options = {"field": "rows"} if name == "field.json" else {}
    expected = [{"text": text} for text in CAFE.values()] if name == "a.txt" else [CAFE, CAFE]
    assert rows_of(name, encoding=encoding, **options) == expected
    if not name.endswith(".json"):
        (unit,) = open_units(name, encoding=encoding)
        assert [each.row for each in unit.rows()] == expected


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "line breaks are not single bytes; convert the file to UTF-8: iconv -f utf-16 -t UTF-8"),
        ("utf_32_le", "line breaks are not single bytes"),
        ("cp037", "line breaks are not single bytes"),
        ("idna", "line breaks are not single bytes"),
        ("latin-15000", "'latin-15000'; it must be an encoding that Python knows"),
        ("hex", "an encoding that Python knows"),
        (1, "an encoding that Python knows"),
    ],
)
def test_an_encoding_that_cannot_be_read(folder, encoding, message):
    with pytest.raises(ConfigError, match=message):
        load_rows(write(folder / "a.jsonl", lines(ROWS)), encoding=encoding)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("", {}, "dataset.source must be a name or a path, found ''"),
        ("json", {"data_files": [1]}, "dataset.data_files has 1; expected names of files"),
        ("json", {"data_files": 5}, "dataset.data_files has 5; expected names of files"),
        ("json", {"data_files": {"train": None}}, "dataset.data_files has None; expected names of files"),
        ("a.csv", {"field": "data"}, "dataset.field is for json files, and these are csv; leave it out"),
        ("a.jsonl", {"delimiter": ";"}, "dataset.delimiter is for csv files, and these are json"),
        ("a.jsonl", {"sample_by": "line"}, "dataset.sample_by is for text files, and these are json"),
    ],
)
def test_what_names_no_files_or_is_for_other_files(source, options, message):
    for read in (load_rows, open_units):
        with pytest.raises(ConfigError, match=message):
            read(source, **options)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1251", "shift_jis", "cp932", "euc_jp", "euc_kr", "gbk", "big5"])
def test_encodings_with_ascii_in_them(encoding):
    assert check_encoding(encoding)


def test_a_wrong_encoding_is_told(folder):
    write(folder / "a.csv", b"a,b\n1,\x81\n")
    with pytest.raises(
        DataError, match="a.csv, line 2: byte 0x81 is not UTF-8; set dataset.encoding, for example cp1252"
    ):
        load_rows("a.csv")
    with pytest.raises(DataError, match="a.csv, line 2: byte 0x81 is not cp1252; set dataset.encoding to another"):
        load_rows("a.csv", encoding="cp1252")
    with pytest.raises(DataError, match="begins with the mark of UTF-8, and dataset.encoding is cp1252"):
        load_rows(write(folder / "b.csv", "\ufeffa,b\n1,2\n"), encoding="cp1252")


def test_no_split_is_the_usual_one(folder):
    name = write(folder / "a.jsonl", lines(ROWS))
    assert rows_of(name, None) == ROWS
    assert len(open_units(name, None)) == 1


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
