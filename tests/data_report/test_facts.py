"""The counts of a report against a count row by row, and what is shown against what is trained on."""

import json

import numpy as np
import pytest

from torchtune import datasets
from torchtune.data import padded_collate_sft
from torchtune.data_report._facts import bars_of, facts_of
from torchtune.data_report._samples import samples_of
from torchtune.data_report._terminal import printable
from torchtune.datasets import PackedDataset
from torchtune.datasets._parts import parts_of
from torchtune.datasets._prepare import Preparation

HOW = Preparation(workers=0, is_main=False)


class Letters:
    """A tokenizer of letters: 2 begins a sample, 3 ends each answer; a sample that is cut ends with 3 too."""

    bos_id, eos_id, pad_id, special_tokens = 2, 3, 0, {"<s>": 2, "</s>": 3}

    def __init__(self, max_seq_len: int | None = None) -> None:
        self.max_seq_len = max_seq_len

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        return [2] * add_bos + list(map(ord, text)) + [3] * add_eos

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def __call__(self, sample: dict, inference: bool = False) -> dict:
        parts = [(2, True)]
        for message in sample["messages"]:
            ids = self.encode(message.text_content, False, message.role == "assistant")
            parts += [(i, message.masked) for i in ids]
        if self.max_seq_len and len(parts) > self.max_seq_len:
            parts = [*parts[: self.max_seq_len - 1], (3, True)]
        return {"tokens": [i for i, _ in parts], "mask": [masked for _, masked in parts]}


@pytest.fixture
def rows(tmp_path):
    rng = np.random.default_rng(0)
    found = [{"input": "q" * int(a), "output": "a" * int(b)} for a, b in rng.integers(1, 60, size=(90, 2))]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return found, str(path)


def part_of(tokenizer, path: str, most: int = 1000, **options):
    [part] = parts_of(datasets.instruct_dataset(tokenizer, source=path, **options), "dataset", most, HOW)
    return part


def test_counts_of_all_rows(rows):
    found, path = rows
    tokenizer = Letters()
    facts = facts_of(part_of(tokenizer, path), tokenizer, 4, HOW)
    lengths = sorted(2 + len(row["input"]) + len(row["output"]) for row in found)
    assert (facts.rows, facts.looked_at, facts.samples) == (90, 90, 90)
    assert facts.tokens == sum(lengths) and facts.trained == sum(len(row["output"]) + 1 for row in found)
    assert (facts.lengths.least, facts.lengths.longest) == (lengths[0], lengths[-1])
    assert abs(facts.lengths.median - np.median(lengths)) <= 1 and facts.truncation is None
    for start, stop, count in facts.lengths.bars:
        assert count == sum(start <= length <= stop for length in lengths)


@pytest.mark.parametrize("limit", [20, 60, 200])
def test_what_is_cut(rows, limit):
    found, path = rows
    tokenizer = Letters(limit)
    cut = facts_of(part_of(tokenizer, path), tokenizer, 4, HOW).truncation
    lengths = np.array([2 + len(row["input"]) + len(row["output"]) for row in found])
    assert (cut.limit, cut.samples) == (limit, (lengths > limit).sum())
    assert cut.tokens == (lengths - limit)[lengths > limit].sum()
    assert cut.answers == sum(len(row["input"]) >= limit - 2 and n > limit for row, n in zip(found, lengths))


@pytest.mark.parametrize("strategy", ["best_fit", "greedy", "split"])
def test_packs_are_those_of_training(rows, strategy):
    _, path = rows
    tokenizer = Letters(150)
    made = datasets.instruct_dataset(tokenizer, source=path)
    options = {"split_across_pack": True} if strategy == "split" else {"strategy": strategy}
    packed = PackedDataset(made, max_seq_len=150, **options)
    [part] = parts_of(packed, "dataset", 1000, HOW)
    facts = facts_of(part, tokenizer, 4, HOW)
    assert facts.packing.used == strategy and facts.samples == len(packed)
    fill = facts.packing.fills[strategy]
    assert fill.packs == len(packed) and fill.share == pytest.approx(facts.tokens / (150 * len(packed)))
    shown = samples_of(part, tokenizer, len(packed), seed=0)
    for number, sample in enumerate(shown):
        ids = [i for document in sample.documents for piece in document.pieces for i in piece.ids]
        trained = [p.trained for document in sample.documents for p in document.pieces]
        pack = packed[number]
        assert ids + [0] * sample.padding == pack["tokens"].tolist()
        assert trained + [False] * sample.padding == (pack["labels"] != -100).tolist()
        assert sample.documents[0].where.startswith(f"{path}, line ")


def test_without_packing_batches_hold_padding(rows):
    _, path = rows
    tokenizer = Letters(150)
    part = part_of(tokenizer, path)
    packing = facts_of(part, tokenizer, 3, HOW).packing
    order = np.random.default_rng(0).permutation(90)
    batches = [padded_collate_sft([part.table[i] for i in order[k : k + 3]])["tokens"] for k in range(0, 90, 3)]
    assert packing.unpacked == pytest.approx(part.table.lengths.sum() / sum(batch.numel() for batch in batches))
    assert packing.used is None and set(packing.fills) == {"best_fit", "greedy"} and packing.capacity == 150


def test_some_rows_stand_for_all(rows):
    _, path = rows
    tokenizer = Letters()
    part = part_of(tokenizer, path, most=30)
    facts = facts_of(part, tokenizer, 4, HOW)
    assert (facts.rows, facts.looked_at) == (90, 30) and len(set(part.numbers.tolist())) == 30
    assert part.numbers.tolist() == part_of(tokenizer, path, most=30).numbers.tolist() != list(range(30))
    for position in (0, 29):
        assert part.where(position) == f"{path}, line {part.numbers[position] + 1}"


def test_samples_say_what_is_trained_on(rows):
    found, path = rows
    tokenizer = Letters()
    [one, other] = samples_of(part_of(tokenizer, path, most=10), tokenizer, 2, seed=0, rows=[90, 1])
    for sample, row in ((one, found[89]), (other, found[0])):
        [document] = sample.documents
        pieces = document.pieces
        assert "".join(piece.text for piece in pieces) == f"<s>{row['input']}{row['output']}</s>"
        assert "".join(piece.text for piece in pieces if piece.trained) == f"{row['output']}</s>"
        assert (document.tokens, document.trained) == (len(pieces), len(row["output"]) + 1)
        assert [piece.special for piece in pieces] == [True, *[False] * (len(pieces) - 2), True]
    again = [samples_of(part_of(tokenizer, path), tokenizer, 3, seed) for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


def test_a_sample_that_is_trained_on_from_its_first_token_is_shown_as_the_loss_sees_it():
    [part] = parts_of([{"tokens": [65, 66], "labels": [65, 66]}], "dataset", 10, HOW)
    [sample] = samples_of(part, Letters(), 1, seed=0)
    assert [piece.trained for piece in sample.documents[0].pieces] == [False, True]
    assert sample.documents[0].trained == facts_of(part, Letters(), 1, HOW).trained == 1


@pytest.mark.parametrize("seed", range(20))
def test_bars_count_each_row_once(seed):
    rng = np.random.default_rng(seed)
    lengths = (rng.lognormal(rng.uniform(1, 7), rng.uniform(0, 1.5), size=int(rng.integers(1, 3000))) + 1).astype(int)
    bars = bars_of(lengths)
    assert sum(count for *_, count in bars) == len(lengths) and len(bars) <= 14
    for (start, stop, count), following in zip(bars, [*bars[1:], None]):
        assert stop is not None or following is None
        assert count == sum(start <= length and (stop is None or length <= stop) for length in lengths.tolist())
        assert following is None or following[0] == stop + 1


def test_nothing_reaches_the_terminal_that_it_would_obey():
    assert printable("a\x1b[31m\tb\r\n\x07é日") == "a\\x1b[31m\\tb\\r↵\n\\x07é日"
