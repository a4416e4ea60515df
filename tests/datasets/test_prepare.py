"""Tokenising once: the same for any number of processes, kept on disk, and never taken for other data."""

import importlib
import json
import logging
import os
import sys

import numpy as np
import pytest
from letters import Letters

from torchtune.datasets import PackedDataset, instruct_dataset, text_completion_dataset
from torchtune.datasets._prepare import Preparation
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


def test_a_changed_class_is_never_taken_for_it(rows, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source, found = rows(), []
    for read in ("row['output']", "row['input']"):
        (tmp_path / "my_kind.py").write_text(
            "from torchtune.datasets import TextCompletionDataset\n\n\n"
            f"class Kind(TextCompletionDataset):\n    def read(self, row):\n        return {read}\n"
        )
        monkeypatch.delitem(sys.modules, "my_kind", raising=False)
        found.append(importlib.import_module("my_kind").Kind(Letters(), source).tokens_fingerprint())
    assert found[0] != found[1]


def test_a_run_knows_samples_that_are_encoded_otherwise(rows):
    made = [instruct_dataset(Letters(), source=rows(), train_on_input=wanted) for wanted in (False, True)]
    made += [text_completion_dataset(Letters(limit), rows()) for limit in (4, 5)]
    for dataset in made:
        dataset.prepare(Preparation(workers=0))
    assert len({dataset.fingerprint() for dataset in made}) == 4


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
