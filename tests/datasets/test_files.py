"""Where data files may lie and in which form: folders, patterns, URLs, compressed, text and Parquet."""

import bz2
import gzip
import json
import lzma
import os
import pickle
import time
from types import SimpleNamespace

import datasets as hub
import fsspec
import pytest

from torchtune.datasets._parquet import _ends_of_groups
from torchtune.datasets._source import load_rows, open_units
from torchtune.errors import ConfigError, DataError, MissingDependency

ROWS = [{"instruction": f"say {i}", "output": "ä\u2028" * i} for i in range(5)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub.disable_progress_bars()
    return tmp_path


def write(path, content) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def lines(rows=ROWS) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def rows_of(*args, **kwargs) -> list[dict]:
    """The rows, by number and as a stream, which must be the same."""
    rows = load_rows(*args, **kwargs)
    found = [rows[i] for i in range(len(rows))]
    assert [each.row for unit in open_units(*args, **kwargs) for each in unit.rows()] == found
    return found


@pytest.fixture
def memory():
    """A file system of URLs that needs no network."""
    system = fsspec.filesystem("memory")
    system.store.clear()

    def put(path: str, content: bytes) -> str:
        with system.open(path, "wb") as file:
            file.write(content)
        return f"memory://{path}"

    yield put
    system.store.clear()


COMPRESSED = {"a.jsonl.gz": gzip.compress, "a.jsonl.bz2": bz2.compress, "a.json.xz": lzma.compress}


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("at", ["path", "url"])
def test_compressed_files(name, at, folder, memory):
    content = COMPRESSED[name](lines())
    source = write(folder / name, content) if at == "path" else memory(f"data/{name}", content)
    assert rows_of(source) == rows_of("json", data_files=source) == ROWS
    assert load_rows(source).where(1) == f"{source}, line 2"


def test_a_copy_of_a_compressed_file_is_kept_and_made_anew_when_the_file_changes(folder):
    name = write(folder / "a.jsonl.gz", gzip.compress(lines()))
    assert rows_of(name) == ROWS
    (copy,) = (folder / "cache" / "torchtune" / "data" / "files").iterdir()
    before = copy.stat().st_mtime_ns
    assert rows_of(name) == ROWS and copy.stat().st_mtime_ns == before
    write(folder / "a.jsonl.gz", gzip.compress(lines(ROWS[:2])))
    assert rows_of(name) == ROWS[:2]


def test_a_copy_that_a_killed_run_has_begun_is_taken_away_an_hour_later(folder):
    copies = folder / "cache" / "torchtune" / "data" / "files"
    for name, hours in ((".old.jsonl.1", 2), (".new.jsonl.2", 0)):
        write(copies / name, "begun")
        os.utime(copies / name, (time.time() - 3600 * hours,) * 2)
    assert rows_of(write(folder / "a.jsonl.gz", gzip.compress(lines()))) == ROWS
    assert [path.name for path in copies.glob(".*")] == [".new.jsonl.2"]


def test_compressed_files_that_are_damaged_or_malformed_name_themselves(folder):
    name = write(folder / "torn.jsonl.gz", gzip.compress(lines())[:-12])
    for read in (load_rows, lambda source: [*open_units(source)[0].rows()]):
        with pytest.raises(DataError, match="torn.jsonl.gz cannot be read: "):
            read(name)
    name = write(folder / "bad.jsonl.gz", gzip.compress(lines() + b"{\n"))
    with pytest.raises(DataError, match="bad.jsonl.gz, line 6"):
        rows_of(name)
    no_such_block = gzip.compress(b"")[:10] + b"\x07" + b"\x00" * 8
    with pytest.raises(DataError, match="bits.jsonl.gz cannot be read: .*invalid block type"):
        load_rows(write(folder / "bits.jsonl.gz", no_such_block))
    with pytest.raises(DataError, match="plain.jsonl.gz cannot be read: Not a gzipped file"):
        load_rows(write(folder / "plain.jsonl.gz", lines()))
    assert not list((folder / "cache" / "torchtune" / "data" / "files").glob(".*"))


def test_urls(memory, folder):
    first, second = memory("d/a.jsonl", lines(ROWS[:2])), memory("d/b.jsonl", lines(ROWS[2:]))
    assert rows_of(first) == ROWS[:2]
    assert rows_of("json", data_files=[second, first]) == ROWS[2:] + ROWS[:2]
    assert rows_of("memory://d/*.jsonl") == rows_of("json", data_files="memory://d/") == rows_of("memory://d/") == ROWS
    assert rows_of("json", "test", data_files={"train": first, "test": second}) == ROWS[2:]
    with pytest.raises(DataError, match="memory://d/c.jsonl cannot be read"):
        load_rows("memory://d/c.jsonl")
    with pytest.raises(DataError, match="there is no data file memory://e/"):
        load_rows("json", data_files="memory://e/*.jsonl")
    assert rows_of("file://" + write(folder / "x.jsonl", lines())) == ROWS


def test_a_kind_of_url_whose_package_is_missing_or_unknown(folder):
    with pytest.raises(MissingDependency, match=r"s3://bucket/a.jsonl: Install s3fs"):
        load_rows("s3://bucket/a.jsonl")
    with pytest.raises(DataError, match="nothing://a.jsonl cannot be read: Protocol not known"):
        load_rows("json", data_files="nothing://a.jsonl")


def test_documents_of_a_folder(folder):
    write(folder / "docs" / "a.md", "# One\n\ntwo")
    write(folder / "docs" / "b" / "c.txt", "three")
    write(folder / "docs" / "README.markdown", "four")
    whole = [{"text": "four"}, {"text": "# One\n\ntwo"}, {"text": "three"}]
    assert rows_of("docs", sample_by="document") == whole
    assert rows_of("text", data_files="docs", sample_by="document") == whole
    assert rows_of("docs/a.md", sample_by="document") == whole[1:2]


def test_folders_and_patterns(folder):
    write(folder / "data" / "b.jsonl", lines(ROWS[2:]))
    write(folder / "data" / "a" / "a.jsonl", lines(ROWS[:2]))
    write(folder / "data" / "notes.md", "no data")
    for source in ("data", "data/", "./data", str(folder / "data"), "data/**/*.jsonl"):
        assert rows_of(source) == ROWS
    assert rows_of("json", data_files="data") == ROWS
    assert rows_of("data/b.json*") == ROWS[2:]
    write(folder / "data" / "c.csv", "instruction,output\nsay 5,x\n")
    with pytest.raises(DataError, match="are not of one kind that is known: 2 x json; 1 x csv.*data_files"):
        load_rows("data")
    write(folder / "data" / "d.pdf", "no data")
    with pytest.raises(DataError, match="1 x .pdf, unknown"):
        load_rows("data/*.*")
    assert rows_of("csv", data_files="data") == [{"instruction": "say 5", "output": "x"}]
    with pytest.raises(DataError, match=r"the folder 'data' has no data file \(.json, .jsonl.* in it"):
        load_rows("parquet", data_files="data")
    with pytest.raises(DataError, match="no data file './nowhere'"):
        load_rows("./nowhere")


def test_files_of_a_folder_that_are_named_for_a_split_belong_to_it(folder, caplog):
    write(folder / "data" / "more.jsonl", lines())
    for name in ("train-0.jsonl", "my_training.jsonl", "dev.jsonl", "eval/rows.jsonl"):
        write(folder / "data" / name, lines([{"name": name}]))
    names = {split: [row["name"] for row in rows_of("data", split)] for split in ("train", "validation", "test")}
    assert names["train"] == ["my_training.jsonl", "train-0.jsonl"]
    assert names["validation"] == ["dev.jsonl"] and names["test"] == ["eval/rows.jsonl"]
    assert "left out 1 file(s) whose names have no word for a split, among them 'data/more.jsonl'" in caplog.text
    with pytest.raises(DataError, match="the splits are validation, test, train"):
        load_rows("data", "other")


def test_a_folder_with_a_dataset_card_is_read_as_the_card_says(folder):
    write(folder / "data" / "README.md", "---\nconfigs:\n- config_name: default\n  data_files: good.jsonl\n---\n")
    write(folder / "data" / "good.jsonl", lines([{"a": 1}]))
    write(folder / "data" / "other.jsonl", lines([{"a": 2}]))
    assert rows_of("data", cache_dir=str(folder / "hub")) == [{"a": 1}]


TEXT = "\ufeffone\n two \n\n\r\nthree\r\nfour"


@pytest.mark.parametrize(
    ("by", "expected", "places"),
    [
        ("line", ["one", " two ", "three", "four"], [1, 2, 5, 6]),
        ("paragraph", ["one\n two ", "three\r\nfour"], [1, 5]),
        ("document", ["one\n two \n\n\r\nthree\r\nfour"], [1]),
    ],
)
def test_text(by, expected, places, folder):
    name = write(folder / "a.txt", TEXT)
    assert (
        rows_of("text", data_files=name, sample_by=by)
        == rows_of(name, sample_by=by)
        == [{"text": text} for text in expected]
    )
    rows = load_rows(name, sample_by=by)
    assert [rows.where(i) for i in range(len(rows))] == [f"{name}, line {line}" for line in places]


def test_text_that_cannot_be_used(folder):
    with pytest.raises(DataError, match="a.txt holds no text"):
        load_rows(write(folder / "a.txt", "\n \n"))
    with pytest.raises(DataError, match="b.txt, line 2: byte 0xff is not UTF-8"):
        rows_of(write(folder / "b.txt", b"a\n\xff\n"))
    with pytest.raises(ConfigError, match="sample_by is 'word'; it must be one of line, paragraph, document"):
        load_rows("a.txt", sample_by="word")


def parquet(path, rows=ROWS, size: int = 2) -> str:
    hub.Dataset.from_list(rows).to_parquet(path, batch_size=size)
    return str(path)


def test_parquet(folder):
    name = parquet(folder / "a.parquet")
    rows = load_rows(name)
    assert rows_of(name) == ROWS and rows.is_local
    assert [rows[i] for i in (4, 0, 3)] == [ROWS[4], ROWS[0], ROWS[3]]
    assert rows.where(3) == f"{name}, row 4"
    assert rows_of(name, "train") == ROWS and load_rows(name, "train[1:3]")[1] == ROWS[2]
    assert pickle.loads(pickle.dumps(rows))[2] == ROWS[2]
    assert rows.fingerprint() == load_rows(parquet(folder / "same.parquet")).fingerprint()
    assert rows.fingerprint() != load_rows(parquet(folder / "other.parquet", ROWS[:4])).fingerprint()


def test_parquet_keeps_few_row_groups_in_memory(folder):
    rows = load_rows(parquet(folder / "a.parquet", [{"a": i} for i in range(100)]))
    assert [rows[i]["a"] for i in range(100)] == list(range(100))
    assert len(rows._parts[0]._groups) == 4


def test_parquet_from_a_place_on(folder):
    (unit,) = open_units(parquet(folder / "a.parquet"))
    for start in range(6):
        assert [each.row for each in unit.rows([start])] == ROWS[start:]


def test_parquet_by_url(folder, memory):
    name = memory("d/a.parquet", (folder / parquet(folder / "a.parquet")).read_bytes())
    assert rows_of(name) == ROWS


def test_parquet_that_cannot_be_used(folder):
    with pytest.raises(DataError, match="bad.parquet is no Parquet file, or is damaged"):
        load_rows(write(folder / "bad.parquet", "no parquet"))
    with pytest.raises(DataError, match="empty.parquet is no Parquet file, or is damaged"):
        load_rows(write(folder / "empty.parquet", ""))
    whole = (folder / parquet(folder / "a.parquet")).read_bytes()
    with pytest.raises(DataError, match="torn.parquet is no Parquet file, or is damaged"):
        load_rows(write(folder / "torn.parquet", whole[:-20]))
    with pytest.raises(DataError, match="name.parquet is no Parquet file, or is damaged: .*0xb2"):
        load_rows(write(folder / "name.parquet", whole.replace(b"instruction", b"\xb2nstruction")))
    from pyarrow import array, table
    from pyarrow import parquet as pq

    pq.write_table(table([array([1]), array([2])], names=["a", "a"]), folder / "twice.parquet")
    for read in (load_rows, lambda source: [*open_units(source)[0].rows()]):
        with pytest.raises(DataError, match=r"twice.parquet: 1 column name\(s\) stand twice, among them 'a'"):
            read("twice.parquet")
    hub.Dataset.from_dict({"a": []}).to_parquet(folder / "none.parquet")
    with pytest.raises(DataError, match="none.parquet holds no rows"):
        load_rows(str(folder / "none.parquet"))
    group = SimpleNamespace(num_rows=-7)  # what a few wrong bits make of a number
    damaged = SimpleNamespace(num_row_groups=1, metadata=SimpleNamespace(row_group=lambda number: group))
    with pytest.raises(DataError, match="bits.parquet is damaged: it says that a part of it has -7 rows"):
        _ends_of_groups(damaged, "bits.parquet")
