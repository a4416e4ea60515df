"""The checks before training: silent on right data with every tokenizer, exact on wrong data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from family_tokenizers import NO_SYSTEM, TOKENIZERS

from torchtune import datasets
from torchtune.config._data_checks import DATA_CHECKS
from torchtune.datasets import ConcatDataset, PackedDataset, SFTDataset
from torchtune.datasets._faults import OF_A_PART, Look
from torchtune.datasets._gates import act_on, findings_in, parts_to_check, unknown_ids_in
from torchtune.datasets._prepare import Preparation
from torchtune.errors import DataError

SAID = [
    "What is {}?  ",
    "Écoute: naïve 日本 👍 {}\n\n**x** <b>",
    "It \"is\" {} \\n'ok'.",
    "<think>\nhm\n</think>\n\nYes {}",
]


def talk(number: int, *roles: str) -> list[dict[str, str]]:
    texts = [SAID[(number + i) % 3 if role != "assistant" else 2 + i % 2] for i, role in enumerate(roles)]
    return [{"role": role, "content": text.format(number)} for role, text in zip(roles, texts)]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def samples_of(tokenizer, folder: Path, system: bool) -> dict[str, object]:
    """What each builder makes of a few right rows."""
    first = ("system",) * system
    turns = [first + ("user", "assistant") * (1 + i % 3) for i in range(6)]
    chats = write(folder / "chat.jsonl", [{"messages": talk(i, *roles)} for i, roles in enumerate(turns)])
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    shared = [[{"from": names[m["role"]], "value": m["content"]} for m in talk(i, *r)] for i, r in enumerate(turns)]
    shared = write(folder / "shared.jsonl", [{"conversations": turns} for turns in shared])
    ask = [
        {"instruction": SAID[i % 2].format(i), "input": "so" * (i % 2), "output": SAID[2].format(i)} for i in range(6)
    ]
    ask = write(folder / "ask.jsonl", ask)
    pairs = [{"chosen": talk(i, "user", "assistant"), "rejected": talk(i, "user", "assistant")} for i in range(6)]
    pairs = write(folder / "pairs.jsonl", pairs)
    texts = write(folder / "texts.jsonl", [{"text": SAID[i % 3].format(i)} for i in range(6)])
    openai = {"source": chats, "conversation_column": "messages", "conversation_style": "openai"}
    columns = {"input": "instruction", "output": "output"}
    completion = datasets.text_completion_dataset
    return {
        "alpaca": datasets.alpaca_dataset(tokenizer, source=ask),
        "alpaca, answers": datasets.alpaca_dataset(tokenizer, source=ask, train_on_input=False),
        "instruct": datasets.instruct_dataset(tokenizer, source=ask, column_map=columns),
        "chat": datasets.chat_dataset(tokenizer, **openai),
        "chat, all": datasets.chat_dataset(tokenizer, train_on_input=True, **openai),
        "sharegpt": datasets.slimorca_dataset(tokenizer, source=shared),
        "pairs": datasets.preference_dataset(tokenizer, source=pairs),
        "text": completion(tokenizer, texts),
        "text without end": completion(tokenizer, texts, add_eos=False),
    }


@pytest.mark.parametrize("name", TOKENIZERS)
def test_nothing_is_found_in_right_data(name, tmp_path):
    tokenizer = TOKENIZERS[name](tmp_path)
    for kind, dataset in samples_of(tokenizer, tmp_path, system=name not in NO_SYSTEM).items():
        if hasattr(dataset, "prepare"):
            dataset.prepare(Preparation(0))
        found = findings_in(parts_to_check(dataset, "dataset"), [], tokenizer, {})
        assert not found, f"{kind}: {found[0]}"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_answer_that_is_cut_off_is_found_and_no_other(name, tmp_path):
    """Whatever end token a tokenizer puts behind what it has cut, and trains on."""
    rows = [{"messages": talk(0, "user", "assistant")} for _ in range(4)]
    rows[2]["messages"][0]["content"] = "far too long to be answered " * 50
    path = write(tmp_path / "long.jsonl", rows)
    options = {"source": path, "conversation_column": "messages", "conversation_style": "openai"}
    limit = len(datasets.chat_dataset(TOKENIZERS[name](tmp_path), **options)[0]["tokens"]) + 20
    tokenizer = TOKENIZERS[name](tmp_path, max_seq_len=limit)
    dataset = datasets.chat_dataset(tokenizer, **options)
    dataset.prepare(Preparation(0))
    [found] = findings_in(parts_to_check(dataset, "dataset"), [], tokenizer, {})
    assert (found.check, found.level, found.count, found.total) == ("cut_answer", "warn", 1, 4)
    assert "long.jsonl, line 3" in found.example


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_answer_of_which_only_the_opening_is_left_is_lost(name, tmp_path):
    """Templates open an answer with its role, and some train on that too."""
    path = write(tmp_path / "rows.jsonl", [{"messages": talk(2, "user", "assistant")} for _ in range(3)])
    options = {"source": path, "conversation_column": "messages", "conversation_style": "openai"}
    whole = datasets.chat_dataset(TOKENIZERS[name](tmp_path), **options)
    [part] = parts_to_check(whole, "dataset")
    begins = next(i for i, label in enumerate(whole[0]["labels"]) if label != -100) + part.answer_opening
    for limit, expected in ((begins, ["cut_answer"]), (begins + 3, [])):
        tokenizer = TOKENIZERS[name](tmp_path, max_seq_len=limit)
        found = found_in(datasets.chat_dataset(tokenizer, **options), tokenizer)
        assert [check for check, *_ in found] == expected


class Plain:
    """A tokenizer of letters: 2 begins, 3 ends a message; a role in ``drops`` is left out."""

    bos_id, eos_id, pad_id, max_seq_len, special_tokens = 2, 3, 0, None, {"<s>": 2, "</s>": 3}

    def __init__(self, drops: list | tuple = (), odd: bool = False) -> None:
        self.drops, self.odd = drops, odd

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        return [2] * add_bos + [ord(letter) for letter in text if ord(letter) < 256] + [3] * add_eos

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids)).upper() if self.odd else "".join(map(chr, ids))

    def __call__(self, sample: dict, inference: bool = False) -> dict:
        parts = [(2, True)]
        for number, message in enumerate(sample["messages"]):
            if message.role not in self.drops and (number, message.role) not in self.drops:
                parts += [(i, message.masked) for i in self.encode(message.text_content, add_bos=False)]
        return {"tokens": [i for i, _ in parts], "mask": [masked for _, masked in parts]}


def chat_of(tokenizer, path: Path, rows: list[list[dict]]) -> SFTDataset:
    source = write(path, [{"messages": turns} for turns in rows])
    options = {"conversation_column": "messages", "conversation_style": "openai"}
    return datasets.chat_dataset(tokenizer, source=source, **options)


def found_in(dataset, tokenizer, val=None, **checks: str) -> list[tuple[str, str, int, int]]:
    train, val = parts_to_check(dataset, "dataset"), parts_to_check(val, "dataset_val")
    return [(f.check, f.level, f.count, f.total) for f in findings_in(train, val, tokenizer, checks)]


def test_every_check_of_the_config_is_there():
    assert {*OF_A_PART, "unknown_ids", "validation_overlap"} == set(DATA_CHECKS)


def test_the_share_decides_unless_the_config_does(tmp_path):
    tokenizer = Plain()
    rows = [talk(i, "user", "assistant") if i % 2 else talk(i, "user") for i in range(8)]
    dataset = chat_of(tokenizer, tmp_path / "half.jsonl", rows)
    assert found_in(dataset, tokenizer) == [("no_target", "warn", 4, 8)]
    assert found_in(dataset, tokenizer, no_target="error") == [("no_target", "error", 4, 8)]
    assert found_in(dataset, tokenizer, no_target="off", double_bos="off") == []
    dataset = chat_of(tokenizer, tmp_path / "most.jsonl", [*rows, talk(9, "user")])
    assert found_in(dataset, tokenizer) == [("no_target", "error", 5, 9)]
    assert found_in(dataset, tokenizer, no_target="warn") == [("no_target", "warn", 5, 9)]


@pytest.mark.parametrize(
    "drops, counts",
    [
        (["system"], [(3, 5)]),
        (["user"], [(5, 5)]),
        ([(2, "user")], [(2, 5)]),
        (["system", (1, "user")], [(3, 5), (3, 5)]),
    ],
)
def test_samples_of_which_a_template_drops_a_message_are_counted_by_role(tmp_path, drops, counts):
    roles = [("system", "user", "assistant"), ("user", "assistant", "user", "assistant")]
    rows = [
        [{"role": role, "content": f"{role} says {10 * i + number}."} for number, role in enumerate(roles[i % 2])]
        for i in range(5)
    ]
    found = found_in(chat_of(Plain(drops), tmp_path / "rows.jsonl", rows), Plain())
    assert [(check, count, total) for check, _, count, total in found] == [("dropped_message", *c) for c in counts]


def test_a_message_that_few_samples_have_is_no_fault_of_most(tmp_path):
    rows = [[{"role": "system", "content": "Be kind."}] * (i < 3) + talk(i, "user", "assistant") for i in range(40)]
    dataset = chat_of(Plain(["system"]), tmp_path / "rows.jsonl", rows)
    assert found_in(dataset, Plain()) == [("dropped_message", "warn", 3, 40)]


EMPTY = [
    ({"content": ""}, True),
    ({"content": " \n"}, True),
    ({"content": [{"type": "text", "text": ""}]}, True),
    ({"content": "", "train": False}, False),
    ({"content": "", "tool_calls": [{"name": "f", "arguments": {}}]}, False),
    ({"content": "", "reasoning_content": "Hm."}, False),
    ({"content": "0"}, False),
]


@pytest.mark.parametrize("answer, is_empty", EMPTY)
def test_answers_that_say_nothing(tmp_path, answer, is_empty):
    asked = {"role": "user", "content": "a"}
    rows = [[asked, {"role": "assistant", **answer}]] * 2 + [[asked, {"role": "assistant", "content": "b"}]] * 2
    dataset = chat_of(Plain(), tmp_path / "rows.jsonl", rows)
    found = [one for one in found_in(dataset, Plain()) if one[0] == "empty_answer"]
    assert found == [("empty_answer", "warn", 2, 4)] * is_empty
    dataset = chat_of(Plain(), tmp_path / "rows.jsonl", rows[:3])
    found = [one for one in found_in(dataset, Plain()) if one[0] == "empty_answer"]
    assert found == [("empty_answer", "error", 2, 3)] * is_empty
    assert not any("empty" in one[0] for one in found_in(dataset, Plain(), empty_answer="off"))


def test_empty_cells_and_texts(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("input,output\na,\nb,c\n")
    assert found_in(datasets.instruct_dataset(Plain(), source=str(path)), Plain()) == [("empty_answer", "warn", 1, 2)]
    texts = write(tmp_path / "texts.jsonl", [{"text": ""}] * 3)
    assert found_in(datasets.text_completion_dataset(Plain(), texts), Plain()) == []
    pairs = [
        {"chosen": talk(i, "user", "assistant"), "rejected": [*talk(i, "user"), {"role": "assistant", "content": ""}]}
        for i in range(3)
    ]
    found = found_in(datasets.preference_dataset(Plain(), source=write(tmp_path / "pairs.jsonl", pairs)), Plain())
    assert found == [("empty_answer", "error", 3, 3)]


def test_all_checks_that_end_a_run_are_named(tmp_path):
    rows = [[{"role": "system", "content": "Be kind."}, *talk(i, "user")] for i in range(3)]
    dataset = chat_of(Plain(["system"]), tmp_path / "rows.jsonl", rows)
    found = findings_in(parts_to_check(dataset, "dataset"), [], Plain(), {"double_bos": "error"})
    with pytest.raises(DataError, match="all the same: data_checks.no_target=off data_checks.dropped_message=off$"):
        act_on(found)


def test_letters_that_a_tokenizer_does_not_know_or_changes_are_not_dropped(tmp_path):
    tokenizer = Plain(odd=True)
    rows = [
        [{"role": "user", "content": f"日本 {i} straße ﬁn"}, {"role": "assistant", "content": "👍 ok"}]
        for i in range(4)
    ]
    assert found_in(chat_of(tokenizer, tmp_path / "rows.jsonl", rows), tokenizer) == []


def test_without_decoding_nothing_is_said_of_texts(tmp_path):
    class Mute(Plain):
        decode = property()

    dataset = chat_of(
        Mute(("system",)), tmp_path / "rows.jsonl", [talk(i, "system", "user", "assistant") for i in range(4)]
    )
    assert found_in(dataset, Mute()) == []


def test_rows_of_validation_that_are_trained_on(tmp_path):
    tokenizer = Plain()
    train = chat_of(tokenizer, tmp_path / "train.jsonl", [talk(i, "user", "assistant") for i in range(50)])
    anagram = talk(7, "user", "assistant")
    anagram[0]["content"] = anagram[0]["content"][::-1]  # as long, and the same letters
    rows = [anagram, *(talk(i, "user", "assistant") for i in (49, 50, 3, 3))]
    val = chat_of(tokenizer, tmp_path / "val.jsonl", rows)
    for dataset in (train, PackedDataset(train, max_seq_len=200)):
        dataset.prepare(Preparation(0))
        found = findings_in(parts_to_check(dataset, "dataset"), parts_to_check(val, "dataset_val"), tokenizer, {})
        assert [(f.check, f.level, f.count, f.total) for f in found] == [("validation_overlap", "warn", 3, 5)]
        assert "train.jsonl, line 50" in found[0].text and "val.jsonl, line 2" in found[0].example


def test_each_of_several_datasets_is_looked_at_by_itself(tmp_path):
    tokenizer = Plain()
    right = chat_of(tokenizer, tmp_path / "right.jsonl", [talk(i, "user", "assistant") for i in range(9)])
    wrong = chat_of(tokenizer, tmp_path / "wrong.jsonl", [talk(i, "user") for i in range(3)])
    [found] = findings_in(parts_to_check(ConcatDataset([right, wrong]), "dataset"), [], tokenizer, {})
    assert (found.level, found.count, found.total) == ("error", 3, 3) and "dataset[1]" in found.text


def test_a_dataset_of_ones_own_is_looked_at_by_some_of_its_samples():
    class Own:
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> dict[str, list[int]]:
            return {"tokens": [2, 2, index % 5], "labels": [2, 2, index % 5]}

    parts = parts_to_check(Own(), "dataset")
    [found] = findings_in(parts, [], Plain(), {})
    assert (found.check, found.level, found.count, found.total) == ("double_bos", "error", 1000, 1000)
    assert re.match(r"dataset, sample \d+: '<s><s>", found.example)
    [found] = unknown_ids_in(parts, Plain(), 4, {})
    assert found.level == "error" and 100 < found.count < 300 and "up to 4 in the first" in found.text
    assert "has all of the config's tokenizer" in found.text
    assert not unknown_ids_in(parts, Plain(), 5, {})


def test_samples_that_are_all_empty_have_nothing_to_train_on(tmp_path):
    class Silent(Plain):
        def __call__(self, sample, inference=False):
            return {"tokens": [], "mask": []}

    rows = write(tmp_path / "rows.jsonl", [{"input": "a", "output": "b"}] * 4)
    parts = parts_to_check(datasets.instruct_dataset(Silent(), source=rows), "dataset")
    found = findings_in(parts, [], Silent(), {})
    assert "no_target" in [finding.check for finding in found if finding.level == "error"]


def test_what_has_no_tokens_is_left_alone():
    assert parts_to_check([{"pixels": [1]}], "dataset") == parts_to_check([([1], [2])], "dataset") == []


def test_counts_of_a_large_table_equal_those_sample_by_sample(tmp_path):
    tokenizer, rng = Plain(), np.random.default_rng(0)
    lengths = rng.integers(1, 12, size=400)
    rows = [rng.integers(2, 6, size=length).tolist() for length in lengths]
    labels = [[i if rng.random() < 0.2 else -100 for i in row] for row in rows]
    own = [{"tokens": row, "labels": label} for row, label in zip(rows, labels)]
    [part] = parts_to_check(own, "dataset")
    look = Look(part, tokenizer)
    assert look.targets.tolist() == [sum(i != -100 for i in label[1:]) for label in labels]
    counts = {name: sum(len(fault.positions) for fault in check(look)) for name, check in OF_A_PART.items()}
    assert counts["double_bos"] == sum(row[:2] == [2, 2] for row in rows)
    assert counts["no_target"] == sum(set(label[1:]) <= {-100} for label in labels)


def test_a_stream_is_looked_at_by_its_first_samples(tmp_path):
    tokenizer = Plain()
    rows = [{"messages": talk(i, "user", "assistant") if i >= 600 else talk(i, "user")} for i in range(1100)]
    options = {"conversation_column": "messages", "conversation_style": "openai", "streaming": True}
    source = write(tmp_path / "stream.jsonl", rows)
    for more in ({}, {"packed": True}):
        tokenizer.max_seq_len = 200 if more else None
        stream = datasets.chat_dataset(tokenizer, source=source, **options, **more)
        assert found_in(stream, tokenizer) == [("no_target", "error", 600, 1000)]
