"""Every builder on small local data: which text is trained on, and what becomes of wrong rows."""

import json

import pytest
from letters import Letters

from torchtune import datasets
from torchtune.errors import ConfigError, DataError


def text(tokens: list[int]) -> str:
    return "".join(map(chr, tokens))


def trained(labels: list[int]) -> str:
    return text([label for label in labels if label != -100])


@pytest.fixture
def write(tmp_path):
    def rows(*found: dict) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        return str(path)

    return rows


INSTRUCTIONS = {
    "instruct_dataset": ({"input": "Add 1 2", "output": "3"}, {}),
    "grammar_dataset": ({"input": "Add 1 2", "output": "3"}, {}),
    "samsum_dataset": ({"dialogue": "Add 1 2", "summary": "3"}, {}),
    "slimorca_dataset": (
        {"conversations": [{"from": "human", "value": "Add 1 2"}, {"from": "gpt", "value": "3"}]},
        {},
    ),
    "chat_dataset": (
        {"talk": [{"role": "user", "content": "Add 1 2"}, {"role": "assistant", "content": "3"}]},
        {"conversation_column": "talk", "conversation_style": "openai"},
    ),
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_only_the_answer_is_trained_on(name, write):
    row, options = INSTRUCTIONS[name]
    build = getattr(datasets, name)
    sample = build(Letters(), source=write(row), **options)[0]
    assert text(sample["tokens"]) == "Add 1 23" and trained(sample["labels"]) == "3"
    whole = build(Letters(), source=write(row), train_on_input=True, new_system_prompt="Be brief. ", **options)[0]
    assert text(whole["tokens"]) == "Be brief. Add 1 23" and trained(whole["labels"]) == "Add 1 23"


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_packed(name, write):
    row, options = INSTRUCTIONS[name]
    packs = getattr(datasets, name)(Letters(max_seq_len=16), source=write(row, row, row), packed=True, **options)
    assert len(packs) == 2
    assert trained(packs[0]["labels"].tolist()) == "33"


@pytest.mark.parametrize("name", ["instruct_dataset", "slimorca_dataset", "chat_dataset"])
def test_what_is_trained_on_by_strategy(name, write):
    row, options = INSTRUCTIONS[name]
    for strategy, expected in (("train_on_all", "Add 1 23"), ("train_on_last", "3"), (["user"], "Add 1 2")):
        sample = getattr(datasets, name)(Letters(), source=write(row), masking_strategy=strategy, **options)[0]
        assert trained(sample["labels"]) == expected
    with pytest.raises(ConfigError, match="contradicts"):
        getattr(datasets, name)(
            Letters(), source=write(row), train_on_input=True, masking_strategy="train_on_last", **options
        )


def test_alpaca_by_strategy(write):
    source = write({"instruction": "Add", "output": "3"})
    assert trained(datasets.alpaca_dataset(Letters(), source=source)[0]["labels"]).startswith("Below")
    for options in ({"train_on_input": False}, {"masking_strategy": "train_on_assistant"}, {"masking_strategy": None}):
        sample = datasets.alpaca_dataset(Letters(), source=source, **options)[0]
        assert (trained(sample["labels"]) == "3") == (options != {"masking_strategy": None})


def test_further_columns_of_a_dialogue(write):
    rows = write({"talk": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}], "told": "S"})
    options = {"conversation_column": "talk", "conversation_style": "sharegpt"}
    sample = datasets.chat_dataset(Letters(), source=rows, column_map={"system": "told"}, **options)[0]
    assert text(sample["tokens"]) == "SHiHo" and trained(sample["labels"]) == "Ho"


def test_how_packs_are_filled(write):
    """Best fit puts the first and the last together, greedy packing neighbours only."""
    rows = [{"input": "", "output": "x" * length} for length in (7, 5, 3)]
    for packed, expected in ((True, [[7, 3], [5, 5]]), ("best_fit", [[7, 3], [5, 5]]), ("greedy", [[7, 3], [5, 3, 2]])):
        packs = datasets.instruct_dataset(Letters(10), source=write(*rows), packed=packed)
        assert [pack["seq_lens"].tolist() for pack in packs] == expected  # what is left is padding
    with pytest.raises(ConfigError, match="strategy is 'tight'; it must be one of best_fit, greedy"):
        datasets.instruct_dataset(Letters(10), source=write(*rows), packed="tight")


def test_columns_are_mapped(write):
    rows = write({"q": "Hi", "a": "Ho"})
    sample = datasets.instruct_dataset(Letters(), source=rows, column_map={"input": "q", "output": "a"})[0]
    assert text(sample["tokens"]) == "HiHo"
    talk = write({"turns": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]})
    assert (
        trained(datasets.slimorca_dataset(Letters(), source=talk, column_map={"conversations": "turns"})[0]["labels"])
        == "Ho"
    )


def test_columns_that_a_config_leaves_open_are_those_of_the_set(write):
    rows = write({"dialogue": "Hi", "summary": "Ho"})
    for given in ({}, {"column_map": None}, {"column_map": {}}):
        assert text(datasets.samsum_dataset(Letters(), source=rows, **given)[0]["tokens"]) == "HiHo"


def test_a_missing_column_names_the_nearest(write):
    with pytest.raises(DataError, match=r"rows.jsonl, line 1.*outputs"):
        datasets.instruct_dataset(Letters(), source=write({"input": "Hi", "outputs": "Ho"}))


def test_an_unknown_style_is_refused(write):
    with pytest.raises(ConfigError, match="sharegpt, openai"):
        datasets.chat_dataset(Letters(), source=write({}), conversation_column="x", conversation_style="alpaca")


COMPLETIONS = {
    "text_completion_dataset": "text",
    "cnn_dailymail_articles_dataset": "article",
    "wikitext_dataset": "page",
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_all_of_a_text_is_trained_on(name, write):
    build, local = getattr(datasets, name), {} if name.startswith("text") else {"name": None}
    if name == "wikitext_dataset":
        local = {"subset": None}
    sample = build(Letters(), write({COMPLETIONS[name]: "Once upon a time"}), **local)[0]
    assert sample["tokens"] == sample["labels"] == [2, *map(ord, "Once upon a time"), 3]


def test_a_long_text_is_cut_without_an_end(write):
    """An end token in the middle of a text would teach to stop there."""
    source = write({"text": "Once upon a time"}, {"text": "Once"})
    for dataset, expected in (
        (datasets.text_completion_dataset(Letters(max_seq_len=6), source), "\x02Once "),
        (datasets.TextCompletionDataset(Letters(6), source, max_seq_len=4), "\x02Onc"),
        (datasets.TextCompletionDataset(Letters(6), source, add_eos=False), "\x02Once "),
    ):
        assert text(dataset[0]["tokens"]) == text(dataset[0]["labels"]) == expected
    assert text(datasets.text_completion_dataset(Letters(6), source)[1]["tokens"]) == "\x02Once\x03"
    left = Letters(5)
    left.truncation_type = "left"
    assert text(datasets.text_completion_dataset(left, source)[0]["tokens"]) == "time\x03"


@pytest.mark.parametrize("streaming", [False, True], ids=["", "streaming"])
@pytest.mark.parametrize("max_seq_len", [4, 9, 40])
def test_nothing_is_lost_of_texts_that_are_split_across_packs(max_seq_len, streaming, write):
    texts = ["Once upon a time", "x", "abcdefghijklmnopqrstuvwxyz", ""]
    source = write(*({"text": each} for each in texts))
    packs = datasets.text_completion_dataset(
        Letters(), source, packed=True, max_seq_len=max_seq_len, streaming=streaming
    )
    found = [token for pack in packs for token in pack["tokens"].tolist() if token != Letters.pad_id]
    assert text(found) == "".join(f"\x02{each}\x03" for each in texts)
    if not streaming:
        assert packs.ds.cut_at is None and len(packs) == -(-len(found) // max_seq_len)


def test_texts_are_split_across_packs_unless_asked_not_to(write):
    source = write(*({"text": "abcd"} for _ in range(4)))  # 6 tokens each
    split = datasets.text_completion_dataset(Letters(8), source, packed=True)
    assert len(split) == 3 and split[0]["seq_lens"].tolist() == [6, 2]
    whole = datasets.text_completion_dataset(Letters(8), source, packed=True, split_across_pack=False)
    assert len(whole) == 4 and whole[0]["seq_lens"].tolist() == [6, 2]


@pytest.mark.parametrize(("given", "lengths"), [({}, [[8], [2, 6], [8]]), ({"split_across_pack": False}, [[8]] * 2)])
def test_articles_are_split_across_packs_unless_asked_not_to(given, lengths, write):
    source = write(*({"page": "abcdefgh" + each} for each in ("", "ijkl")))  # 10 and 14 tokens
    packs = datasets.wikitext_dataset(Letters(8), source, subset=None, packed=True, **given)
    assert [pack["seq_lens"].tolist() for pack in packs] == lengths


def test_a_text_that_is_none(write):
    with pytest.raises(DataError, match="line 2: 'text' is 7; expected a text"):
        datasets.text_completion_dataset(Letters(), write({"text": "a"}, {"text": 7}))


def turns(*texts: str) -> list[dict]:
    return [{"role": role, "content": said} for role, said in zip(("user", "assistant"), texts)]


PREFERENCES = {
    "preference_dataset": {"chosen": turns("Hi", "Ho"), "rejected": turns("Hi", "Hm")},
    "hh_rlhf_helpful_dataset": {"chosen": turns("Hi", "Ho"), "rejected": turns("Hi", "Hm")},
    "stack_exchange_paired_dataset": {"question": "Hi", "response_j": "Ho", "response_k": "Hm"},
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_pairs_of_answers(name, write):
    build = getattr(datasets, name)
    sample = build(Letters(), source=write(PREFERENCES[name]))[0]
    assert (text(sample["chosen_input_ids"]), text(sample["rejected_input_ids"])) == ("HiHo", "HiHm")
    assert (trained(sample["chosen_labels"]), trained(sample["rejected_labels"])) == ("Ho", "Hm")
    whole = build(Letters(), source=write(PREFERENCES[name]), train_on_input=True)[0]
    assert trained(whole["chosen_labels"]) == "HiHo"


def test_pairs_cannot_be_packed(write):
    with pytest.raises(ConfigError, match="packed"):
        datasets.PreferenceDataset(source=write({}), message_transform=None, tokenizer=Letters(), packed=True)


@pytest.mark.parametrize("renamed", [("chosen",), ("prompt", "rejected"), ("prompt", "chosen", "rejected")])
def test_columns_of_a_pair_that_are_not_mapped_have_their_own_names(renamed, write):
    columns = {name: f"my {name}" for name in renamed}
    said = {"prompt": "Hi", "chosen": "Ho", "rejected": "Hm"}
    source = write({columns.get(name, name): value for name, value in said.items()})
    sample = datasets.stack_exchange_paired_dataset(Letters(), source=source, column_map=columns)[0]
    assert (text(sample["chosen_input_ids"]), text(sample["rejected_input_ids"])) == ("HiHo", "HiHm")


def test_a_pair_has_no_other_columns(write):
    with pytest.raises(ConfigError, match="entries choosen; expected prompt, chosen, rejected"):
        datasets.stack_exchange_paired_dataset(Letters(), source=write({}), column_map={"choosen": "a"})


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ({}, {"data_dir": "data/rl"}),
        ({"data_dir": "data/reward"}, {"data_dir": "data/reward"}),
        ({"source": "me/pairs"}, {}),
    ],
)
def test_of_stack_exchange_the_part_for_preference_optimisation_is_read(arguments, read, monkeypatch):
    def load_dataset(source, split, **found):
        assert source == arguments.get("source", "lvwerra/stack-exchange-paired") and found == read
        raise OSError("not here")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError, match="not here"):
        datasets.stack_exchange_paired_dataset(Letters(), **arguments)


@pytest.mark.parametrize("name", PREFERENCES)
def test_pairs_need_a_tokenizer_of_messages_alone(name, write):
    class Messages:
        max_seq_len = None
        tokenize_messages = Letters().tokenize_messages

    source = write(PREFERENCES[name])
    build = getattr(datasets, name)
    assert build(Messages(), source=source)[0] == build(Letters(), source=source)[0]
