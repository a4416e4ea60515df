"""Transforms, templates, collate functions, packing and builders give what torchtune 0.6.1 gives.

``goldens.json`` is written by ``make_goldens.py``. What differs on purpose stands in the tests, and why in
docs/compatibility.md.
"""

import json
from pathlib import Path

import pytest
from letters import Letters

from torchtune import data, datasets
from torchtune.data import Message

GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text())


def cases(part: str):
    found = GOLDENS[part]
    return pytest.mark.parametrize("case", found, ids=[case.get("name") for case in found])


def as_text(sample: dict) -> dict[str, str]:
    return {k: "".join("_" if n == -100 else chr(n) for n in ids) for k, ids in sample.items() if k != "mask"}


def shown(messages: list[Message]) -> list[list]:
    return [[m.role, m.text_content, m.masked, m.ipython, m.eot] for m in messages]


def plain(batch: dict | tuple) -> dict | list:
    if isinstance(batch, tuple):
        return [tensor.tolist() for tensor in batch]
    return {key: tensor.tolist() for key, tensor in batch.items()}


@cases("transforms")
def test_messages(case):
    made = getattr(data, case["name"])(**case["arguments"])(case["row"])
    assert {key: shown(messages) for key, messages in made.items()} == case["made"]


@cases("templates")
def test_prompt_templates(case):
    template = getattr(data, case["name"])(*case["arguments"])
    assert shown(template([Message.from_dict(row) for row in case["rows"]])) == case["made"]


@cases("truncated")
def test_truncate(case):
    assert data.truncate(*case["arguments"]) == case["made"]


@cases("collated")
def test_collate(case):
    assert plain(getattr(data, case["name"])(case["batch"], **case["arguments"])) == case["made"]


@cases("packed")
def test_greedy_packs(case):
    """In a pack of ours no first label, position in the padding or position in a later piece comes from elsewhere."""
    packs = datasets.PackedDataset(case["samples"], **case["arguments"], strategy="greedy")
    for ours, theirs in zip(map(plain, packs), case["packs"], strict=True):
        assert (ours["tokens"], ours["seq_lens"]) == (theirs["tokens"], theirs["seq_lens"])
        starts = {sum(theirs["seq_lens"][:i]) for i in range(len(theirs["seq_lens"]))}
        labels = [-100 if i in starts else label for i, label in enumerate(theirs["labels"])]
        assert ours["labels"] == labels
        assert ours["input_pos"] == [i for length in theirs["seq_lens"] for i in range(length)]


@cases("built")
def test_builders(case, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(case["rows"]))
    made = getattr(datasets, case["name"])(Letters(), source="json", data_files=str(path), **case["options"])
    assert [as_text(sample) for sample in made] == case["samples"]
