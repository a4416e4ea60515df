"""Tokenising once: the same for any number of processes, kept on disk, and never taken for other data."""

import errno
import importlib
import json
import logging
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from letters import Letters

from torchtune.datasets import PackedDataset, instruct_dataset, text_completion_dataset
from torchtune.datasets._prepare import Preparation, _own_sources
from torchtune.datasets._token_table import InFolder
from torchtune.errors import DataError


@pytest.fixture
def rows(tmp_path):
    def write(count: int = 700, name: str = "rows.jsonl") -> str:
        rows = ({"input": f"Say {i}", "output": "ho" * (i % 7 + 1), "text": f"text {i}"} for i in range(count))
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return write


def kept(tmp_path, **changes) -> Preparation:
    return Preparation(cache_dir=tmp_path / "cache", least_to_keep=0, **{"workers": 0, **changes})


def samples(dataset) -> list:
    return [(list(s["tokens"]), list(s["labels"])) for s in (dataset[i] for i in range(len(dataset)))]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("on_disk", [False, True])
def test_prepared_samples_are_those_made_one_by_one(workers, on_disk, rows, tmp_path):
    dataset = instruct_dataset(Letters(), source=rows())
    expected = samples(dataset)
    dataset.prepare(kept(tmp_path, workers=workers) if on_disk else Preparation(workers=workers))
    assert samples(dataset) == expected
    assert dataset[-1]["tokens"].tolist() == expected[-1][0]


def test_a_second_run_reads_what_the_first_has_kept(rows, tmp_path, caplog, monkeypatch):
    source = rows()
    first = instruct_dataset(Letters(), source=source)
    first.prepare(kept(tmp_path))
    second = instruct_dataset(Letters(), source=source)
    monkeypatch.setattr(Letters, "__call__", None)  # whoever tokenises fails
    with caplog.at_level(logging.INFO):
        second.prepare(kept(tmp_path))
    assert "read 700 tokenised samples" in caplog.text
    assert samples(second) == samples(first)
    assert isinstance(second.table.tokens, np.memmap)


CHANGES = {
    "rows": lambda rows: instruct_dataset(Letters(), source=rows(699)),
    "tokenizer": lambda rows: instruct_dataset(Letters(max_seq_len=100), source=rows()),
    "transform": lambda rows: instruct_dataset(Letters(), source=rows(), train_on_input=True),
    "selection": lambda rows: instruct_dataset(Letters(), source=rows(), split="train[1:]"),
    "kind": lambda rows: text_completion_dataset(Letters(), rows()),
    "end": lambda rows: text_completion_dataset(Letters(), rows(), add_eos=False),
}


def test_other_data_is_never_taken_for_it(rows, tmp_path):
    datasets = [instruct_dataset(Letters(), source=rows()), *(build(rows) for build in CHANGES.values())]
    assert len({dataset.tokens_fingerprint() for dataset in datasets}) == len(datasets)


@pytest.fixture
def built_from(rows, tmp_path, monkeypatch):
    """What the tokens of a dataset depend on that a function in a file of the user's makes."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = rows(3)

    def fingerprint(**files: str) -> str | None:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module("my_rows").build(Letters(), source).tokens_fingerprint()

    return fingerprint


TO_MESSAGES = """
from torchtune.data import Message

def said(row, more=""):
    return {"messages": [Message("assistant", fixed(row["output"] + more))]}
"""
BUILD = """
from functools import partial
from torchtune.datasets import SFTDataset, TextCompletionDataset

class Object:
    def __call__(self, row):
        return said(row)

class Kind(TextCompletionDataset):
    def read(self, row):
        return fixed(row["output"])

def closure(more):
    return lambda row: said(row, more)

def build(tokenizer, source):
    return {made}
"""
OF_ROWS = "SFTDataset(source=source, message_transform={}, model_transform=tokenizer)".format
MADE = {
    "function": OF_ROWS("said"),
    "object": OF_ROWS("Object()"),
    "partial": OF_ROWS("partial(said, more='!')"),
    "lambda": OF_ROWS("lambda row: said(row)"),
    "closure": OF_ROWS("closure('!')"),
    "method": OF_ROWS("Object().__call__"),
    "class": "Kind(tokenizer, source)",
}


@pytest.mark.parametrize("name", MADE)
def test_changed_code_of_the_users_is_never_taken_for_it(name, built_from):
    """Whether it is in the module that the config names, in one that it imports, or in one imported when called."""
    build = BUILD.replace("{made}", MADE[name])
    imported = "from my_helper import fixed\n" + TO_MESSAGES + build
    late = "def fixed(text):\n    import my_helper\n    return my_helper.fixed(text)\n" + TO_MESSAGES + build
    one, other = "def fixed(text):\n    return text\n", "def fixed(text):\n    return text.upper()\n"
    own = [built_from(my_rows=one + TO_MESSAGES + build, my_helper=one)]
    own += [built_from(my_rows=other + TO_MESSAGES + build, my_helper=one)]
    helpers = [built_from(my_rows=form, my_helper=helper) for form in (imported, late) for helper in (one, other)]
    assert None not in own + helpers
    assert len({*own, *helpers}) == 6
    assert built_from(my_rows=late, my_helper=other) == helpers[-1]


@pytest.mark.parametrize("more", ["!", "?"])
def test_what_a_closure_holds_counts(more, built_from):
    made = BUILD.replace("{made}", OF_ROWS("closure('!')"))
    fixed = "fixed = str\n" + TO_MESSAGES
    first = built_from(my_rows=fixed + made)
    assert (built_from(my_rows=fixed + made.replace("'!'", f"'{more}'")) == first) == (more == "!")


def test_our_own_code_counts(tmp_path):
    """A version has many commits."""
    found = []
    for text in ("", "x = 1\n"):
        for name in ("torchtune/data/_turns.py", "torchtune/models/_new_tokenizer.py", "llama_recipes/datasets/_a.py"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
            found.append(_own_sources.__wrapped__(tmp_path))
    assert len(set(found)) == len(found)
    assert _own_sources() == _own_sources.__wrapped__()


def test_the_same_code_is_the_same_in_another_process(tmp_path, rows):
    (tmp_path / "my_rows.py").write_text(
        "fixed = str\n" + TO_MESSAGES + BUILD.replace("{made}", OF_ROWS("partial(closure('!'))"))
    )
    code = f"import my_rows, letters; print(my_rows.build(letters.Letters(), {rows(3)!r}).tokens_fingerprint())"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}:{Path(__file__).parents[2]}"}
    run = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = [run(env=environment | {"PYTHONHASHSEED": seed}).stdout for seed in "12"]
    assert found[0] == found[1] != "None\n"


def test_to_look_at_the_code_takes_little_time(rows):
    dataset = instruct_dataset(Letters(), source=rows(3))
    dataset.tokens_fingerprint()
    started = time.process_time()
    dataset.tokens_fingerprint()
    assert time.process_time() - started < 0.1  # a few milliseconds


def test_a_torn_folder_is_made_anew(rows, tmp_path):
    source = rows()
    instruct_dataset(Letters(), source=source).prepare(kept(tmp_path))
    (folder,) = (tmp_path / "cache").iterdir()
    os.truncate(folder / "tokens.bin", 40)
    again = instruct_dataset(Letters(), source=source)
    again.prepare(kept(tmp_path))
    assert (folder / "tokens.bin").stat().st_size > 40
    assert samples(again) == samples(instruct_dataset(Letters(), source=source))


def test_what_cannot_be_kept_is_used_all_the_same(rows, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file, where a folder should be")
    dataset = instruct_dataset(Letters(), source=rows(5))
    dataset.prepare(kept(tmp_path))
    assert "cannot be kept" in caplog.text
    assert len(samples(dataset)) == 5


def test_a_full_disk_ends_no_run(rows, tmp_path, caplog, monkeypatch):
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = rows(600)
    monkeypatch.setattr(InFolder, "add", full)
    dataset = instruct_dataset(Letters(), source=source)
    with caplog.at_level(logging.INFO):
        dataset.prepare(kept(tmp_path))
    assert "cannot be kept" in caplog.text and "No space left" in caplog.text and "and kept in" not in caplog.text
    assert samples(dataset) == samples(instruct_dataset(Letters(), source=source))
    assert list((tmp_path / "cache").iterdir()) == []


SLOW = """
import os, sys, time
from letters import Letters
from torchtune.datasets import instruct_dataset
from torchtune.datasets._prepare import Preparation

class Slow(Letters):
    def __call__(self, sample, inference=False):
        open(f"{sys.argv[2]}/{os.getpid()}", "w").close()
        time.sleep(0.1)
        return super().__call__(sample)

instruct_dataset(Slow(), source=sys.argv[1]).prepare(Preparation(workers=2))
"""


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_processes_end_with_the_one_that_began_them(rows, tmp_path):
    (tmp_path / "pids").mkdir()
    here = str(Path(__file__).parents[1])
    path = os.pathsep.join([here, str(Path(here).parent), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-c", SLOW, rows(), str(tmp_path / "pids")]
    run = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path})
    try:
        assert wait_for(
            lambda: len(os.listdir(tmp_path / "pids")) >= 3, 60
        )  # the first sample is tried by the run itself
    finally:
        run.kill()
        run.wait()
    found = [pid for pid in os.listdir(tmp_path / "pids") if int(pid) != run.pid]
    assert len(found) == 2 and wait_for(lambda: not any(map(is_running, found)), 10)


def wait_for(happened, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.05)
    return happened()


class Refusing(Letters):
    def __call__(self, sample, inference=False):
        if "Say 300" in sample["messages"][0].text_content:
            raise DataError("too strange")
        return super().__call__(sample)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_tokenised_names_its_line_and_leaves_nothing(workers, rows, tmp_path):
    dataset = instruct_dataset(Refusing(), source=rows())
    with pytest.raises(DataError, match=r"rows.jsonl, line 301: too strange"):
        dataset.prepare(kept(tmp_path, workers=workers))
    assert list((tmp_path / "cache").iterdir()) == []


class Killed(Letters):
    """Ends every process but the one that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = os.getpid()

    def __call__(self, sample, inference=False):
        if os.getpid() != self.maker:
            os._exit(9)
        return super().__call__(sample)


def test_a_killed_process_is_an_error_that_says_what_to_do(rows):
    dataset = instruct_dataset(Killed(), source=rows())
    with pytest.raises(DataError, match="data_workers: 0"):
        dataset.prepare(Preparation(workers=2))


def test_packs_are_the_same_from_disk_and_from_memory(rows, tmp_path):
    source = rows()
    packs = [PackedDataset(instruct_dataset(Letters(), source=source), max_seq_len=64) for _ in range(3)]
    packs[0].prepare(Preparation(workers=0))
    packs[1].prepare(kept(tmp_path, workers=2))
    packs[2].prepare(kept(tmp_path))
    assert packs[0].fingerprint() == packs[1].fingerprint() == packs[2].fingerprint()
    assert all((packs[0][i]["tokens"] == packs[2][i]["tokens"]).all() for i in range(len(packs[0])))
