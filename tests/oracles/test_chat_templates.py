"""Rows in OpenAI's form through the chat templates of released models (from trl): ids and masks are transformers'."""

import importlib.util
import json
from pathlib import Path

import pytest
from tokenizer_files import byte_tokenizer
from transformers import PreTrainedTokenizerFast

from torchtune.data import OpenAIToMessages
from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer

TEMPLATES = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
# As released, and as trl marks the answers in them.
WITH_TOOLS = ("glm4moe", "lfm2_v2", "nemotron_3_nano", "qwen2_5", "qwen3", "qwen3_6", "qwen3_instruct_2507")
MARKED = [*WITH_TOOLS, "cohere2", "gemma3", "gptoss", "llama3", "phi3"]
BY_TURNS = ("cohere2", "gemma3", "qwen3_6")  # these refuse a dialogue that the user does not begin


def tool_call(city: str, number: str) -> dict:
    function = {"name": "weather", "arguments": json.dumps({"city": city, "days": 2}, ensure_ascii=False)}
    return {"id": number, "type": "function", "function": function}


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": []}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}}]
ASKED = {"role": "user", "content": "How warm is it in Zürich?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [tool_call("Zürich", "abcdef123")]}
TOLD = {"role": "tool", "content": '{"degrees": 21}', "tool_call_id": "abcdef123", "name": "weather"}
ANSWERED = {"role": "assistant", "content": "It is 21 °C."}
TWO = [tool_call("Zürich", "abcdef123"), tool_call("Oslo", "abcdef124")]
PLAIN = {
    "one turn": [ASKED, ANSWERED],
    "turns": [
        ASKED,
        ANSWERED,
        {"role": "user", "content": " And 🙂?\n"},
        {"role": "assistant", "content": "Ok.\n\nSo."},
    ],
}
TOOL_ROWS = {
    "system": [{"role": "system", "content": "Be brief."}, ASKED, ANSWERED],
    "call": [ASKED, CALLED],
    "answer": [ASKED, CALLED, TOLD, ANSWERED],
    "after": [
        ASKED,
        CALLED,
        TOLD,
        ANSWERED,
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "Ok"},
    ],
    "two": [
        ASKED,
        {"role": "assistant", "content": "", "tool_calls": TWO},
        TOLD,
        {**TOLD, "content": "-3", "tool_call_id": "abcdef124"},
        ANSWERED,
    ],
}


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|return|>", "<|eot_id|>"]
    byte_tokenizer(folder / "tokenizer.json", special)
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENS))
    return folder / "tokenizer.json"


def both(words: Path, name: str) -> tuple[HuggingFaceModelTokenizer, PreTrainedTokenizerFast]:
    template = (TEMPLATES / f"{name}.jinja").read_text()
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(words), chat_template=template, **TOKENS)
    return HuggingFaceModelTokenizer(words, chat_template=template), theirs


def in_their_form(messages: list[dict]) -> list[dict]:
    """Arguments as mappings and a text beside calls, as https://huggingface.co/docs/transformers/chat_extras asks."""
    found = json.loads(json.dumps(messages))
    for message in found:
        message["content"] = message["content"] or ""
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return found


def expected(theirs: PreTrainedTokenizerFast, row: dict, *, masks: bool = False) -> dict:
    return theirs.apply_chat_template(
        in_their_form(row["messages"]), tools=row.get("tools"), return_dict=True, return_assistant_tokens_mask=masks
    )


@pytest.mark.parametrize("name", [*WITH_TOOLS, "llama3_1", "llama3_2"])
def test_tools_and_calls_equal_transformers(words, name):
    ours, theirs = both(words, name)
    only_one_call = name.startswith("llama")
    for case, messages in {**PLAIN, **TOOL_ROWS}.items():
        for row in ({"messages": messages}, {"messages": messages, "tools": TOOLS}):
            if not (only_one_call and case == "two"):
                assert ours(OpenAIToMessages()(row))["tokens"] == expected(theirs, row)["input_ids"], case


@pytest.mark.parametrize("name", MARKED)
def test_masks_equal_the_marks(words, name):
    ours, theirs = both(words, f"{name}_training")
    rows = [{"messages": messages} for messages in PLAIN.values()]
    if name in WITH_TOOLS:
        rows += [{"messages": messages, "tools": TOOLS} for messages in TOOL_ROWS.values()]
    for row in rows:
        wanted = expected(theirs, row, masks=True)
        sample = ours(OpenAIToMessages()(row))
        assert sample["tokens"] == wanted["input_ids"]
        assert [int(not masked) for masked in sample["mask"]] == wanted["assistant_masks"]
        assert 0 < sum(wanted["assistant_masks"]) < len(sample["tokens"])


@pytest.mark.parametrize("name", [name for name in MARKED if name not in BY_TURNS])
def test_masks_of_a_dialogue_that_only_the_model_speaks_in(words, name):
    ours, theirs = both(words, f"{name}_training")
    row = {"messages": [ANSWERED]}
    wanted = expected(theirs, row, masks=True)["assistant_masks"]
    assert [int(not masked) for masked in ours(OpenAIToMessages()(row))["mask"]] == wanted and 0 < sum(wanted)


@pytest.mark.parametrize("name", MARKED)
def test_masks_of_one_of_two_answers_are_its_marks(words, name):
    ours, theirs = both(words, f"{name}_training")
    wanted = expected(theirs, {"messages": PLAIN["turns"]}, masks=True)["assistant_masks"]
    last = max(i for i, (mark, before) in enumerate(zip(wanted, [0, *wanted])) if mark and not before)
    found = []
    for weights in ((0, 1), (1, 0)):
        turns = [{**turn, "weight": weights[i // 2]} if i % 2 else turn for i, turn in enumerate(PLAIN["turns"])]
        found.append([int(not masked) for masked in ours(OpenAIToMessages()({"messages": turns}))["mask"]])
    assert found == [[0] * last + wanted[last:], wanted[:last] + [0] * (len(wanted) - last)]


@pytest.mark.parametrize("name", ["cohere2", "gemma3", "gptoss", "lfm2_v2", "llama3", "qwen2_5", "qwen3_instruct_2507"])
def test_masks_without_marks_end_where_the_marks_do(words, name):
    """What is found without marks may begin earlier, at the header of the answer."""
    (plain, _), (_, marked) = both(words, name), both(words, f"{name}_training")
    for messages in PLAIN.values():
        row = {"messages": messages}
        wanted = expected(marked, row, masks=True)
        sample = plain(OpenAIToMessages()(row))
        assert sample["tokens"] == wanted["input_ids"]
        marks, found = wanted["assistant_masks"], [int(not masked) for masked in sample["mask"]]
        assert all(found[i] for i, mark in enumerate(marks) if mark)
        answers = sum(message["role"] == "assistant" for message in messages)
        assert runs(found) == runs(marks) == answers


def runs(mask: list[int]) -> int:
    return sum(one and not before for before, one in zip([0, *mask], mask))


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("llama3", {"messages": [ASKED, CALLED]}, "does not write tool calls"),
        ("llama3", {"messages": [ASKED, ANSWERED], "tools": TOOLS}, "'tools', which the chat template does not write"),
        ("llama3_1", {"messages": TOOL_ROWS["two"]}, "single tool-calls"),
        ("qwen2_5", {"messages": [ASKED, {**ANSWERED, "reasoning_content": "Hm"}]}, "reasoning_content"),
    ],
)
def test_nothing_is_left_out(words, name, row, said):
    with pytest.raises(DataError, match=said):
        both(words, name)[0](OpenAIToMessages()(row))


def test_thoughts_of_a_row(words):
    ours, theirs = both(words, "qwen3")
    row = {"messages": [ASKED, {**ANSWERED, "reasoning_content": "Hm, so."}]}
    assert ours(OpenAIToMessages()(row))["tokens"] == expected(theirs, row)["input_ids"]
