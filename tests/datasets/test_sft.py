"""Rows to samples, errors in rows, and the Alpaca builders."""

import json
from collections.abc import Mapping

import pytest

from torchtune.data import AlpacaToMessages
from torchtune.datasets import ConcatDataset, PackedDataset, SFTDataset, alpaca_cleaned_dataset, alpaca_dataset
from torchtune.datasets._sft import SFTTransform
from torchtune.errors import ConfigError, DataError

ROWS = [
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"instruction": "Greet.", "input": "", "output": "Hello"},
    {"instruction": "Part.", "output": "Goodbye"},
]


class Letters:
    """A tokenizer whose ids are code points."""

    max_seq_len: int | None = 400
    pad_id = 1

    def __call__(self, sample: Mapping, inference: bool = False) -> dict:
        parts = [(ord(letter), message.masked) for message in sample["messages"] for letter in message.text_content]
        return {"tokens": [token for token, _ in parts], "mask": [masked for _, masked in parts]}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(rows, name: str = "a.jsonl") -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    return write


def alpaca(source: str, **changes):
    return alpaca_dataset(Letters(), source=source, **changes)


def test_samples_have_tokens_mask_and_unshifted_labels(data):
    dataset = alpaca("json", data_files=data(ROWS), train_on_input=False)
    assert len(dataset) == 3
    sample = dataset[0]
    assert list(sample) == ["tokens", "mask", "labels"]
    assert sample["tokens"][-1] == sample["labels"][-1] == ord("3")
    assert sample["labels"][:-1] == [-100] * (len(sample["tokens"]) - 1)
    assert dataset[-1] == dataset[2]
    assert alpaca("json", data_files="a.jsonl")[0]["labels"] == sample["tokens"]


def test_column_map_split_and_cleaned(data):
    renamed = [{"q": row["instruction"], "a": row["output"]} for row in ROWS]
    dataset = alpaca(data(renamed), column_map={"instruction": "q", "output": "a"}, split="train[1:]")
    assert bytes(dataset[0]["tokens"]).endswith(b"Hello")
    assert len(alpaca_cleaned_dataset(Letters(), source="a.jsonl", column_map={"instruction": "q", "output": "a"})) == 3
    assert alpaca_cleaned_dataset.keywords == {"source": "yahma/alpaca-cleaned"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"instructions": "x", "output": "y"},
            "'instruction'.*nearest to 'instruction' is 'instructions'; column_map is",
        ),
        ({"instruction": "x", "output": None}, "'output'.*null"),
        ({"instruction": None, "output": "x"}, "'instruction'.*null"),
        ({"instruction": "x", "output": 42}, "42"),
        ({"instruction": "x", "output": ["y"]}, r"\['y'\]"),
    ],
)
def test_a_bad_row_is_found_when_the_dataset_is_made(data, row, message):
    with pytest.raises(DataError, match=f"a.jsonl, line 3: .*{message}"):
        alpaca(data(ROWS[:2] + [row]))


def test_many_bad_rows_make_a_short_message(data):
    with pytest.raises(DataError) as error:
        alpaca(data([{"instruction": "x"}] * 8))
    assert str(error.value).startswith("in 8 of 8 rows, first a.jsonl, line 1: a row has no 'output'")
    assert len(str(error.value).splitlines()) == 1


def test_own_transforms_are_told_the_row_too(data):
    def transform(row):
        return {"messages": row["text"].split()}

    with pytest.raises(DataError, match="a.jsonl, line 1: no column 'text'; the columns are 'instruction', 'input'"):
        SFTDataset(source=data(ROWS), message_transform=transform, model_transform=Letters())
    with pytest.raises(DataError, match="a.jsonl, line 2: 'NoneType' object has no attribute 'split'"):
        SFTDataset(source=data([{"text": "a"}, {"text": None}]), message_transform=transform, model_transform=Letters())


def test_a_config_error_of_the_transform_is_not_blamed_on_a_row(data):
    def transform(row):
        raise ConfigError("no such style")

    with pytest.raises(ConfigError, match="^no such style"):
        SFTDataset(source=data(ROWS), message_transform=transform, model_transform=Letters())


def test_model_transform_must_give_tokens_and_mask(data):
    def dataset(result):
        return SFTDataset(source="a.jsonl", message_transform=AlpacaToMessages(), model_transform=lambda _: result)

    data(ROWS)
    with pytest.raises(ConfigError, match=r"\['ids'\]"):
        dataset({"ids": []})[0]
    with pytest.raises(ConfigError, match="2 tokens and a mask of 1"):
        dataset({"tokens": [1, 2], "mask": [True]})[0]


def test_filter(data):
    data(ROWS)
    has_input = lambda row: bool(row.get("input"))  # noqa: E731
    assert len(alpaca("a.jsonl", filter_fn=has_input)) == 1
    kept = alpaca(
        "a.jsonl",
        filter_fn=lambda output, index, least: len(output) > least and index < 2,
        filter_kwargs={"input_columns": "output", "with_indices": True, "fn_kwargs": {"least": 1}},
    )
    assert len(kept) == 1 and bytes(kept[0]["tokens"]).endswith(b"Hello")
    with pytest.raises(DataError, match="keeps none of the 3 rows"):
        alpaca("a.jsonl", filter_fn=lambda row: False)
    with pytest.raises(ConfigError, match="num_proc"):
        alpaca("a.jsonl", filter_fn=has_input, filter_kwargs={"num_proc": 2})
    with pytest.raises(ConfigError, match="must be a function"):
        alpaca("a.jsonl", filter_fn="has_input")
    with pytest.raises(ConfigError, match="filter_fn is not"):
        alpaca("a.jsonl", filter_kwargs={"with_indices": True})


def test_fingerprint(data):
    data(ROWS)
    same = [alpaca("a.jsonl").fingerprint(), alpaca("json", data_files="a.jsonl").fingerprint()]
    assert same[0] == same[1]
    others = [
        alpaca("a.jsonl", train_on_input=False),
        alpaca("a.jsonl", split="train[:2]"),
        alpaca("a.jsonl", filter_fn=lambda row: row["output"] != "Hello"),
        alpaca("a.jsonl", packed=True),
        alpaca("a.jsonl", packed=True, train_on_input=False),
        ConcatDataset([alpaca("a.jsonl"), alpaca("a.jsonl")]),
    ]
    prints = [same[0], *(dataset.fingerprint() for dataset in others)]
    assert len(set(prints)) == len(prints)


def test_packed_alpaca(data):
    packed = alpaca(data(ROWS), packed=True, train_on_input=False)
    assert isinstance(packed, PackedDataset) and packed.max_seq_len == 400
    assert (packed[len(packed) - 1]["tokens"] == Letters.pad_id).any()
    tokenizer = Letters()
    tokenizer.max_seq_len = None
    with pytest.raises(ConfigError, match="tokenizer.max_seq_len"):
        alpaca_dataset(tokenizer, source="a.jsonl", packed=True)


def test_sft_transform_takes_either_half():
    messages = SFTTransform(message_transform=AlpacaToMessages())(ROWS[0])
    assert list(messages) == ["messages"]
    assert SFTTransform(model_transform=Letters())(messages) == SFTTransform(AlpacaToMessages(), Letters())(ROWS[0])
    with pytest.raises(ConfigError):
        SFTTransform()
