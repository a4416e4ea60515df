"""The counts of a report against a count row by row, and what is shown against what is trained on."""

import json

import numpy as np
import pytest

from torchtune import datasets
from torchtune.data import padded_collate_sft
from torchtune.data_report._facts import bars_of, facts_of
from torchtune.data_report._samples import Cut, Gap, samples_of
from torchtune.data_report._visible import stretches, unmistakable, visible
from torchtune.data_report._words import packing_in_words
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
    assert cut.within == cut.samples  # answers stand last, so that each cut takes some of one
    for start, stop, count in cut.bars:
        assert count == sum(start <= length and (stop is None or length <= stop) for length in lengths)
    assert sum(count for start, _, count in cut.bars if start > limit) == cut.samples


def test_what_is_cut_of_a_row_that_ends_with_a_question_is_no_part_of_an_answer(tmp_path):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c" * 30)]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    tokenizer = Letters(12)
    made = datasets.chat_dataset(
        tokenizer, source=str(tmp_path / "rows.jsonl"), conversation_column="messages", conversation_style="openai"
    )
    [part] = parts_of(made, "dataset", 10, HOW)
    cut = facts_of(part, tokenizer, 1, HOW).truncation
    assert (cut.samples, cut.within) == (1, 0)


def test_a_sample_says_where_it_was_cut(rows):
    found, path = rows
    tokenizer = Letters(60)
    samples = samples_of(part_of(tokenizer, path), tokenizer, 0, seed=0, rows=range(1, 91))
    for sample, row in zip(samples, found):
        lost = 2 + len(row["input"]) + len(row["output"]) - 60
        assert sample.documents[0].cut == (Cut(lost, "right", 60) if lost > 0 else None)


def test_a_sample_that_is_cut_at_the_left_says_so(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "abcdefghij"}) + "\n")

    class FromTheLeft(Letters):
        truncation_type = "left"

    made = datasets.text_completion_dataset(FromTheLeft(6), source=str(tmp_path / "rows.jsonl"), column="text")
    [part] = parts_of(made, "dataset", 10, HOW)
    [sample] = samples_of(part, FromTheLeft(6), 1, seed=0)
    assert sample.documents[0].cut == Cut(6, "left", 6)


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
    assert facts.trained == sum(int((pack["labels"] != -100).sum()) for pack in packed)
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


@pytest.mark.parametrize(
    "limit, model_limit, capacity, said",
    [
        (150, 90, 150, "dataset.packed: True, packs of 150 tokens (tokenizer.max_seq_len)"),
        (None, 200, 200, "and tokenizer.max_seq_len: 200, which is model.max_seq_len"),
        (None, 100, 100, "which is model.max_seq_len; {cut} rows would be cut"),
        (None, None, 2048, "and tokenizer.max_seq_len, which must be set, for example to 2048"),
    ],
)
def test_the_advice_to_pack_can_be_followed(rows, limit, model_limit, capacity, said):
    found, path = rows
    tokenizer = Letters(limit)
    packing = facts_of(part_of(tokenizer, path), tokenizer, 4, HOW, model_limit).packing
    longer = sum(2 + len(row["input"]) + len(row["output"]) > capacity for row in found)
    assert (packing.capacity, packing.cut) == (capacity, longer)
    assert said.format(cut=longer) in packing_in_words(packing, 90, 4)[0]
    made = datasets.instruct_dataset(Letters(capacity), source=path)
    assert packing.fills["best_fit"].packs == len(PackedDataset(made, max_seq_len=capacity))


def test_a_limit_may_be_any_number(rows):
    tokenizer = Letters(10**20)  # more than numpy's integers hold
    facts = facts_of(part_of(tokenizer, rows[1]), tokenizer, 4, HOW)
    assert facts.packing.fills["best_fit"].packs == 1 and facts.truncation.samples == 0


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


@pytest.mark.parametrize("limit", [1, 7, 10, 55, 99])
def test_bars_have_an_edge_where_rows_are_cut(limit):
    lengths = np.arange(3, 100)
    bars = bars_of(lengths, limit)
    assert sum(count for *_, count in bars) == len(lengths)
    assert limit in (1, 99) or limit + 1 in [start for start, *_ in bars]
    assert all(following[0] == stop + 1 for (_, stop, _), following in zip(bars, bars[1:]))


@pytest.mark.parametrize("length", [359, 361, 5_000, 200_000])
def test_only_what_is_shown_is_decoded(tmp_path, length):
    decoded = []

    class Counting(Letters):
        def decode(self, ids: list[int]) -> str:
            decoded.append(len(ids))
            return super().decode(ids)

    (tmp_path / "rows.jsonl").write_text(json.dumps({"input": "q" * 400, "output": "ab" * (length // 2)}) + "\n")
    part = part_of(Counting(), str(tmp_path / "rows.jsonl"))
    decoded.clear()
    [sample] = samples_of(part, Counting(), 1, seed=0)
    pieces = sample.documents[0].pieces
    gaps = [piece for piece in pieces if isinstance(piece, Gap)]
    assert len(gaps) == (2 if length > 360 else 1) and gaps[0].trained is False
    assert len(pieces) - len(gaps) + sum(gap.tokens for gap in gaps) == sample.documents[0].tokens
    assert sum(decoded) < 4_000
    [whole] = samples_of(part, Counting(), 1, seed=0, whole=True)
    assert len(whole.documents[0].pieces) == sample.documents[0].tokens


def test_letters_of_several_tokens_are_whole_beside_a_gap():
    class Bytes(Letters):
        def decode(self, ids: list[int]) -> str:
            return bytes(i - 10 for i in ids).decode("utf-8", errors="replace")

    for shift in range(3):
        ids = [i + 10 for i in ("x" * shift + "日本" * 400).encode()]
        [part] = parts_of([{"tokens": ids, "labels": ids}], "dataset", 10, HOW)
        [sample] = samples_of(part, Bytes(), 1, seed=0)
        pieces = sample.documents[0].pieces
        assert [i for piece in pieces if not isinstance(piece, Gap) for i in piece.ids]
        assert not any("\ufffd" in piece.text for piece in pieces if not isinstance(piece, Gap))
        assert sum(piece.tokens if isinstance(piece, Gap) else len(piece.ids) for piece in pieces) == len(ids)


def test_what_cannot_be_seen_is_written_out():
    text = "a\x1b[31m\tb\r\n\x00\x07é日\u202e\u200b\u2028⟦↵"
    assert visible(text) == "a\\x1b[31m\\tb\\r\n\\x00\\x07é日\\u202e\\u200b\\u2028⟦↵"
    assert [stretch for stretch, hidden in stretches(text) if hidden][-1] == "\\u21b5"
    assert unmistakable(text).endswith("\\u2028\\u27e6\\u21b5")


@pytest.mark.parametrize(
    "text, written",
    [
        (r"\x1b", r"\\x1b"),
        (r"\u200b \tab \\ x", r"\\u200b \\tab \\\ x"),
        ("\\\t", r"\\\t"),
        (r"C:\Users \alpha", r"C:\Users \alpha"),
        ("so </s> is typed", r"so \x3c/s> is typed"),
    ],
)
def test_text_that_looks_like_a_mark_of_the_report_is_told_apart(text, written):
    assert unmistakable(text, names=["</s>"]) == written
