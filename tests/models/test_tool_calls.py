"""Rows with tools in OpenAI's form, in the models' own formats: what transformers and mistral-common make of them."""

import importlib.util
import json
from pathlib import Path

import pytest
from mistral_common.protocol.instruct.messages import AssistantMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer as TheirMistral
from tokenizer_files import MISTRAL_DATA, byte_tokenizer, small_tekken
from transformers import PreTrainedTokenizerFast

from torchtune.data import Message, OpenAIToMessages
from torchtune.datasets import chat_dataset, preference_dataset
from torchtune.errors import DataError
from torchtune.models._llama3_tokenizer import LLAMA3_SPECIAL_TOKENS
from torchtune.models.gemma import gemma_tokenizer
from torchtune.models.llama2 import llama2_tokenizer
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.models.mistral import mistral_tokenizer
from torchtune.models.phi4 import phi4_tokenizer
from torchtune.models.qwen2 import qwen2_tokenizer
from torchtune.models.qwen2_5 import qwen2_5_tokenizer
from torchtune.models.qwen3 import qwen3_tokenizer

TEMPLATES = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"


def tool_call(number: str, **arguments) -> dict:
    text = json.dumps(arguments, ensure_ascii=False)
    return {"id": number, "type": "function", "function": {"name": "add", "arguments": text}}


PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds “numbers”.", "parameters": PARAMETERS}}]
ASKED = {"role": "user", "content": "1 + 1?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [tool_call("a1b2c3d4e", x=1, wo="Zürich")]}
TOLD = {"role": "tool", "tool_call_id": "a1b2c3d4e", "content": '{"sum": 2}'}
ANSWERED = {"role": "assistant", "content": "2"}
TWICE = {"role": "assistant", "content": "", "tool_calls": [tool_call("a1b2c3d4e", x=1), tool_call("a1b2c3d4f")]}
ROWS = {
    "call": [ASKED, CALLED],
    "answer": [ASKED, CALLED, TOLD, ANSWERED],
    "two calls": [ASKED, TWICE, TOLD, {**TOLD, "content": "three", "tool_call_id": "a1b2c3d4f"}, ANSWERED],
    "after": [ASKED, CALLED, TOLD, ANSWERED, {"role": "user", "content": "More"}, CALLED, TOLD, ANSWERED],
}
BESIDE = [ASKED, {**CALLED, "content": "I ask."}, TOLD, ANSWERED]


def messages_of(row: list[dict]) -> list[Message]:
    return OpenAIToMessages()({"messages": row})["messages"]


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    names = ["<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|endoftext|>"]
    byte_tokenizer(path, names)
    return path


def with_arguments_read(row: list[dict]) -> list[dict]:
    """As https://huggingface.co/docs/transformers/chat_extras asks, with a text beside calls."""
    found = json.loads(json.dumps(row))
    for turn in found:
        turn["content"] = turn["content"] or ""
        for call in turn.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return found


@pytest.mark.parametrize("row", [*ROWS.values(), BESIDE], ids=[*ROWS, "text beside"])
@pytest.mark.parametrize(("name", "build"), [("qwen2_5", qwen2_5_tokenizer), ("qwen3", qwen3_tokenizer)])
def test_qwen(words, name, build, row):
    template = (TEMPLATES / f"{name}.jinja").read_text()
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(words), chat_template=template)
    ours = build(str(words))
    for start in ([], [{"role": "system", "content": "S"}]):
        for tools in (None, TOOLS):
            render = {"conversation": with_arguments_read([*start, *row]), "tools": tools, "return_dict": False}
            sample = {"messages": messages_of([*start, *row]), "tools": tools}
            assert ours(sample)["tokens"] == theirs.apply_chat_template(**render)
            if row[-1] is not ANSWERED:
                continue
            asked = {**sample, "messages": sample["messages"][:-1]}
            render["conversation"].pop()
            prompt = theirs.apply_chat_template(**render, add_generation_prompt=True)
            assert ours(asked, inference=True)["tokens"] == prompt


def test_what_qwen_is_told_of_tools_is_masked_as_the_system_message_is(words):
    ours = qwen2_5_tokenizer(str(words))
    messages = messages_of([{"role": "system", "content": "S"}, ASKED, ANSWERED])
    for masked, told in ((True, messages), (False, messages), (True, messages[1:])):
        messages[0].masked = masked
        tokens, mask = ours.tokenize_messages(told, tools=TOOLS)
        end = tokens.index(ours.im_end_id)
        assert mask[:end] == [masked] * end


@pytest.fixture(scope="module")
def mistral_files(tmp_path_factory) -> dict[str, str]:
    found = {
        "v2": MISTRAL_DATA / "mistral_instruct_tokenizer_240216.model.v2",
        "v3": MISTRAL_DATA / "mistral_instruct_tokenizer_240323.model.v3",
        "v7": MISTRAL_DATA / "mistral_instruct_tokenizer_241114.model.v7",
        "v11": small_tekken(tmp_path_factory.mktemp("v11"), "v11", ["[CALL_ID]", "[ARGS]"]),
    }
    return {version: str(path) for version, path in found.items()}


def mistrals(turn: dict) -> UserMessage | AssistantMessage | ToolMessage:
    if turn["role"] == "tool":
        return ToolMessage(content=turn["content"], tool_call_id=turn["tool_call_id"], name="add")
    if "tool_calls" in turn:
        calls = [ToolCall(id=call["id"], function=FunctionCall(**call["function"])) for call in turn["tool_calls"]]
        return AssistantMessage(content=turn["content"], tool_calls=calls)
    return (UserMessage if turn["role"] == "user" else AssistantMessage)(content=turn["content"])


@pytest.mark.parametrize("row", [*ROWS.values(), BESIDE], ids=[*ROWS, "text beside"])
@pytest.mark.parametrize("version", ["v2", "v3", "v7", "v11"])
def test_mistral(mistral_files, version, row):
    path = mistral_files[version]
    ours = mistral_tokenizer(path, version=version)
    if row is BESIDE and version in ("v2", "v3"):
        with pytest.raises(DataError, match="no text beside a tool call; a message has 'I ask.'"):
            ours.tokenize_messages(messages_of(row))
        return
    if row is ROWS["two calls"] and version == "v2":
        return  # mistral-common takes one result only
    theirs = TheirMistral.from_file(path, mode=ValidationMode.finetuning)
    for tools in (None, TOOLS):
        told = [Tool(function=Function(**tool["function"])) for tool in tools or ()] or None
        request = ChatCompletionRequest(messages=[mistrals(turn) for turn in row], tools=told)
        sample = {"messages": messages_of(row), "tools": tools}
        assert ours(sample)["tokens"] == theirs.encode_chat_completion(request).tokens


def test_llama3(tmp_path):
    """The turns are those of Llama 3.1's template, which puts a text about tools and dates before them, and a tool's
    result between quotes."""
    file = str(tmp_path / "tokenizer.json")
    byte_tokenizer(Path(file), [name for name in LLAMA3_SPECIAL_TOKENS if "reserved" not in name])
    theirs, llama3 = PreTrainedTokenizerFast(tokenizer_file=file, bos_token="<|begin_of_text|>"), Llama3Tokenizer(file)
    theirs.chat_template = (TEMPLATES / "llama3_1.jinja").read_text()
    row = [ASKED, CALLED, {**TOLD, "content": "2"}, ANSWERED]
    whole = theirs.apply_chat_template(with_arguments_read(row), tokenize=False)
    turns = whole[whole.index("<|start_header_id|>user") :].replace('"2"', "2")
    tokens, mask = llama3.tokenize_messages(messages_of(row))
    assert tokens == [llama3.bos_id, *theirs(turns, add_special_tokens=False)["input_ids"], llama3.eos_id]
    trained = llama3.decode([t for t, masked in zip(tokens, mask) if not masked], skip_special_tokens=False)
    assert '{"name": "add", "parameters": {"x": 1, "wo": "Zürich"}}<|eot_id|>' in trained and "1 + 1?" not in trained
    for refused in (ROWS["two calls"], BESIDE):
        with pytest.raises(DataError, match="one tool call and nothing beside it"):
            llama3.tokenize_messages(messages_of(refused))


@pytest.mark.parametrize("missing", ["calls", "tools"])
def test_formats_without_tools_refuse_them(words, missing, tmp_path):
    sentencepiece = str(MISTRAL_DATA / "tokenizer.model.v1")
    tokenizers = [
        llama2_tokenizer(sentencepiece),
        gemma_tokenizer(sentencepiece),
        mistral_tokenizer(sentencepiece),
        phi4_tokenizer(str(words)),
        qwen2_tokenizer(str(words)),
        qwen2_tokenizer(str(words), prompt_template="torchtune.data.ChatMLTemplate"),
    ]
    row = {"messages": [ASKED, CALLED]} if missing == "calls" else {"messages": [ASKED, ANSWERED], "tools": TOOLS}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [ASKED, ANSWERED]}) + "\n" + json.dumps(row) + "\n")
    said = "calls the tool 'add'" if missing == "calls" else "tools"
    for tokenizer in tokenizers:
        rows = chat_dataset(tokenizer, source=str(path), conversation_column="messages", conversation_style="openai")
        assert rows[0]["tokens"]
        with pytest.raises(DataError, match=rf"rows.jsonl, line 2: .*{said}.*(auto_tokenizer|version=auto)"):
            rows[1]


def test_pairs_of_answers_have_tools_too(words, tmp_path):
    row = {"chosen": [ASKED, CALLED], "rejected": [ASKED, ANSWERED], "tools": json.dumps(TOOLS)}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    tokenizer = qwen2_5_tokenizer(str(words))
    sample = preference_dataset(tokenizer, source=str(tmp_path / "rows.jsonl"))[0]
    for side in ("chosen", "rejected"):
        assert sample[f"{side}_input_ids"] == tokenizer.tokenize_messages(messages_of(row[side]), tools=TOOLS)[0]
    trained = tokenizer.decode([label for label in sample["chosen_labels"] if label != -100])
    assert "<tool_call>" in trained and "<tools>" not in trained
