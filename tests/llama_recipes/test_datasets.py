"""The datasets of llama_recipes: what each sample says, what of it is trained on, and ids equal to transformers'."""

import json

import pytest
from letters import Letters
from tokenizer_files import byte_tokenizer
from transformers import PreTrainedTokenizerFast

from llama_recipes.configs import datasets as settings
from llama_recipes.datasets import alpaca_dataset, grammar_dataset, llamaguard_toxicchat_dataset, samsum_dataset
from llama_recipes.utils.dataset_utils import DATASET_PREPROC, get_preprocessed_dataset
from torchtune.errors import ConfigError, DataError
from torchtune.models._hf_tokenizer import hf_tokenizer
from torchtune.models.llama3 import llama3_tokenizer

LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SPECIAL = [*LLAMA3, "<|finetune_right_pad_id|>", "<|eom_id|>", "<|python_tag|>"]
ALPACA = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}{input}\n\n### Response:"
)


@pytest.fixture
def write(tmp_path):
    def rows(*found: dict) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        return str(path)

    return rows


@pytest.fixture
def folder(tmp_path):
    """A Llama 3 whose words are bytes, with the template of a Llama Guard, which asks and never answers."""
    path = tmp_path / "model"
    path.mkdir()
    byte_tokenizer(path / "tokenizer.json", SPECIAL)
    config = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "chat_template": "{{ bos_token }}Is this safe?"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def plain(folder) -> PreTrainedTokenizerFast:
    marks = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1]}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **marks)


def letters(tokens: list[int]) -> str:
    return "".join(map(chr, tokens))


def trained(sample: dict) -> str:
    return letters([label for label in sample["labels"] if label != -100])


SAMSUM = {"dialogue": "A: Hi\nB: Bye", "summary": "They meet."}
GRAMMAR = {"input": "He go.", "target": "He goes."}
TEXTS = {
    "samsum": (samsum_dataset, SAMSUM, "Summarize this dialog:\nA: Hi\nB: Bye\n---\nSummary:\n", "They meet."),
    "grammar": (grammar_dataset, GRAMMAR, "Correct this to standard English: He go.\n---\nCorrected: ", "He goes."),
    "alpaca": (
        alpaca_dataset,
        {"instruction": "Add", "input": "1 2", "output": "3"},
        ALPACA.format(
            more=", paired with an input that provides further context", instruction="Add", input="\n\n### Input:\n1 2"
        ),
        "3",
    ),
    "alpaca, no input": (
        alpaca_dataset,
        {"instruction": "Add", "input": "", "output": "3"},
        ALPACA.format(more="", instruction="Add", input=""),
        "3",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_prompt_is_masked_and_the_answer_trained_on(name, write):
    build, row, prompt, answer = TEXTS[name]
    sample = build(Letters(max_seq_len=None), source=write(row))[0]
    assert letters(sample["tokens"]) == "\x02" + prompt + answer + "\x03"
    assert trained(sample) == answer + "\x03"
    whole = build(Letters(max_seq_len=None), source=write(row), train_on_input=True)[0]
    assert whole["labels"] == whole["tokens"] == sample["tokens"]


@pytest.mark.parametrize("name", TEXTS)
def test_a_long_sample_is_cut_without_an_end(name, write):
    build, row, prompt, answer = TEXTS[name]
    dataset = build(Letters(max_seq_len=len(prompt) + 2), source=write(row))
    assert letters(dataset[0]["tokens"]) == "\x02" + prompt + answer[0] and trained(dataset[0]) == answer[0]
    assert dataset.cut_at == len(prompt) + 2
    assert trained(dataset.uncut()[0]) == answer + "\x03"


def test_packed(write):
    source = write(*[SAMSUM] * 4)
    one = samsum_dataset(Letters(), source=source)[0]["tokens"]
    tokenizer = Letters(max_seq_len=len(one) * 5 // 2)
    whole = samsum_dataset(tokenizer, source=source, packed=True)
    assert [trained({"labels": pack["labels"].tolist()}) for pack in whole] == ["They meet.\x03" * 2] * 2
    split = samsum_dataset(tokenizer, source=source, packed=True, split_across_pack=True)
    assert (split[0]["tokens"].tolist() + split[1]["tokens"].tolist())[: 4 * len(one)] == one * 4
    short = samsum_dataset(Letters(max_seq_len=10), source=source, packed=True, split_across_pack=True)
    assert [token for pack in short for token in pack["tokens"].tolist()][: 4 * len(one)] == one * 4


def test_streams(write):
    found = samsum_dataset(Letters(), source=write(SAMSUM, SAMSUM), streaming=True)
    assert [trained(sample) for sample in found] == ["They meet.\x03"] * 2


@pytest.mark.parametrize("rows, held_out", [(40, 2), (39, 1), (19, 0)])
def test_a_twentieth_of_alpaca_is_for_validation(rows, held_out, write):
    source = write(*({"instruction": f"{number}", "output": f"{number}"} for number in range(rows)))

    def numbers(split: str) -> list[int]:
        return [int(trained(sample)[:-1]) for sample in alpaca_dataset(Letters(None), source=source, split=split)]

    assert numbers("train") == list(range(held_out, rows))
    if held_out:
        assert numbers("val") == list(range(held_out))
    else:
        with pytest.raises(DataError, match="19 row.*needs 20"):
            numbers("val")


def test_arguments_of_alpaca(write):
    source = write({"instruction": "1", "output": "1"})
    with pytest.raises(ConfigError, match="'test'; the parts of this dataset are train and val"):
        alpaca_dataset(Letters(), source=source, split="test")
    with pytest.raises(ConfigError, match="streaming"):
        alpaca_dataset(Letters(), source=source, streaming=True)


@pytest.mark.parametrize("row, said", [
    ({"dialogue": "A"}, "line 1: no column 'summary'"),
    ({"dialogue": "A", "Summary": "x"}, "nearest to 'summary' is 'Summary'"),
    ({"dialogue": None, "summary": "x"}, "'dialogue' is None; expected a text"),
])  # fmt: skip
def test_a_wrong_row_is_named(row, said, write):
    with pytest.raises(DataError, match=said):
        samsum_dataset(Letters(), source=write(row))


TOXIC = {"user_input": "Hurt {him}", "toxicity": 1}
VERDICTS = {
    "safe": {"toxicity": 0, "openai_moderation": "[]"},
    "unsafe": {"openai_moderation": "[]"},
    "unsafe\nS1": {"openai_moderation": '[["hate", 0.1], ["violence/graphic", 0.7]]'},
    "unsafe\nS4": {"openai_moderation": [["sexual", 0.2], ["sexual/minors", 0.3]]},
    "unsafe\nS11": {"openai_moderation": '[["self-harm/intent", 0.9]]'},
}


def guard_tokenizers(folder) -> dict:
    file = str(folder / "tokenizer.json")
    return {"of Llama 3": llama3_tokenizer(file), "of the folder": hf_tokenizer(file)}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_llama_guard_is_asked_in_llama3s_format(verdict, folder, write):
    source = write(TOXIC | VERDICTS[verdict])
    reader = plain(folder)
    samples = [llamaguard_toxicchat_dataset(made, source=source)[0] for made in guard_tokenizers(folder).values()]
    assert samples[0] == samples[1]
    tokens, labels = samples[0]["tokens"], samples[0]["labels"]
    text = reader.decode(tokens)
    assert text.startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nTask: Check if there is")
    assert "\nS1: Violent Crimes.\n" in text and "\nS14: Code Interpreter Abuse.\n<END" in text
    assert "<BEGIN CONVERSATION>\n\nUser: Hurt {him}\n\n<END CONVERSATION>\n\n" in text
    assert text.endswith(
        f"violated categories. <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{verdict}<|eot_id|>"
    )
    assert tokens == reader.encode(text, add_special_tokens=False)
    assert reader.decode([label for label in labels if label != -100]) == f"{verdict}<|eot_id|>"


@pytest.mark.parametrize("row, said", [
    ({"openai_moderation": '[["spam", 0.9]]'}, "names 'spam'; known are sexual"),
    ({"toxicity": 2, "openai_moderation": "[]"}, "'toxicity' is 2; expected 0 or 1"),
    ({"openai_moderation": "[["}, "line 1"),
])  # fmt: skip
def test_a_wrong_row_of_toxicchat(row, said, folder, write):
    with pytest.raises(DataError, match=said):
        llamaguard_toxicchat_dataset(hf_tokenizer(str(folder)), source=write(TOXIC | row))


def test_llama_guard_needs_llama3s_tokens(write):
    with pytest.raises(ConfigError, match="tokenizer of a Llama 3.*start_header_id"):
        llamaguard_toxicchat_dataset(Letters(), source=write(TOXIC | {"openai_moderation": "[]"}))


def configured(name: str, source: str):
    """The settings of a dataset, whose rows are in a local file."""
    config = getattr(settings, name)()
    if name == "grammar_dataset":
        config.train_split = source
    else:
        setattr(config, "data_path" if name == "alpaca_dataset" else "source", source)
    return config


# As llama_recipes joins them: two encodings with the marks in the text, or for Alpaca one, with the prompt's masked.
@pytest.mark.parametrize("name", ["samsum", "grammar", "alpaca"])
def test_the_ids_are_those_of_transformers(name, folder, write):
    _, row, prompt, answer = TEXTS[name]
    tokenizer = plain(folder)
    made = get_preprocessed_dataset(tokenizer, configured(f"{name}_dataset", write(row)))
    begin = tokenizer.encode(tokenizer.bos_token + prompt, add_special_tokens=False)
    end = tokenizer.encode(answer + tokenizer.eos_token, add_special_tokens=False)
    assert len(made) == 1
    assert made[0]["input_ids"] == begin + end
    assert made[0]["labels"] == [-100] * len(begin) + end
    assert made[0]["attention_mask"] == [1] * len(begin + end)
    build, source = TEXTS[name][0], write(row)
    for own in guard_tokenizers(folder).values():
        assert build(own, source=source)[0]["tokens"] == made[0]["input_ids"]


def test_the_second_split_is_the_settings_own(folder, write):
    config = configured("alpaca_dataset", write(*({"instruction": str(n), "output": "x"} for n in range(40))))
    sizes = {split: len(get_preprocessed_dataset(plain(folder), config, split)) for split in ("train", "validation")}
    assert sizes == {"train": 38, "validation": 2}


def test_toxicchat_for_a_tokenizer_of_transformers(folder, write):
    made = get_preprocessed_dataset(
        plain(folder), configured("llamaguard_toxicchat_dataset", write(TOXIC | VERDICTS["unsafe\nS1"]))
    )
    assert plain(folder).decode(made[0]["input_ids"]).endswith("\n\nunsafe\nS1<|eot_id|>")


def test_an_unknown_dataset():
    config = settings.samsum_dataset(dataset="samsung")
    with pytest.raises(AssertionError, match=f"Unknown dataset: samsung; expected {', '.join(DATASET_PREPROC)}"):
        get_preprocessed_dataset(None, config)
