"""What a row says of its turns: calls of tools, functions on offer, and what is trained on."""

import json

import pytest

from torchtune.data import (
    ChosenRejectedToMessages,
    InputOutputToMessages,
    Message,
    OpenAIToMessages,
    ShareGPTToMessages,
    mask_messages,
)
from torchtune.errors import ConfigError, DataError

CALL = {"name": "f", "arguments": {"x": 1}}
PART = {"type": "tool_call", "content": CALL}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def openai(*turns: dict, **row) -> dict:
    return OpenAIToMessages()({"messages": list(turns), **row})


def sharegpt(*turns: dict, column_map=None, **row) -> dict:
    return ShareGPTToMessages(column_map=column_map)({"conversations": list(turns), **row})


def masks(messages: list[Message]) -> list[bool]:
    return [message.masked for message in messages]


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "c1", "function": {"name": "f", "arguments": {"x": 1}}},
        {"id": "c1", "name": "f", "arguments": {"x": 1}},
    ],
)
def test_calls_of_openais_form(call):
    call_message, result = openai(
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "f"},
    )["messages"]
    assert call_message.tool_calls == [{**CALL, "id": "c1"}] and call_message.text_content == ""
    assert repr(call_message) == "Message(role='assistant', content=['<tool_call>'])"
    assert (result.role, result.tool_call_id, result.name, result.masked) == ("tool", "c1", "f", True)
    with_text = openai({"role": "assistant", "content": "So:", "tool_calls": [call, {**call, "id": None}]})
    assert with_text["messages"][0].content[0] == {"type": "text", "content": "So:"}
    assert with_text["messages"][0].tool_calls == [{**CALL, "id": "c1"}, CALL]


@pytest.mark.parametrize("value", [json.dumps(CALL), json.dumps([CALL]), CALL])
def test_calls_of_sharegpts_form(value):
    turns = [("human", "?"), ("function_call", value), ("observation", "2"), ("gpt", "Two.")]
    messages = sharegpt(*({"from": speaker, "value": said} for speaker, said in turns))["messages"]
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1].content == [PART] and masks(messages) == [True, False, True, False]


def test_thoughts_and_ends_of_turns_are_kept():
    turn = {"role": "assistant", "content": "A", "reasoning_content": "Hm", "thinking": None, "eot": False}
    message = openai(turn)["messages"][0]
    assert [part["type"] for part in message.content] == ["reasoning_content", "text"] and not message.eot


@pytest.mark.parametrize("said", [False, 0])
def test_a_turn_that_goes_on_in_both_forms(said):
    assert not openai({"role": "assistant", "content": "A", "eot": said})["messages"][0].eot
    assert not sharegpt({"from": "gpt", "value": "A", "eot": said})["messages"][0].eot
    for turn in ({"role": "assistant", "content": "A"}, {"from": "gpt", "value": "A"}):
        with pytest.raises(DataError, match="turn 1 of 1.*'eot': 'false'}; expected true or false"):
            (openai if "role" in turn else sharegpt)({**turn, "eot": "false"})


@pytest.mark.parametrize("found", [TOOLS, json.dumps(TOOLS)])
def test_functions_on_offer(found):
    user = {"role": "user", "content": "?"}
    assert openai(user, tools=found)["tools"] == TOOLS
    assert sharegpt({"from": "human", "value": "?"}, tools=found)["tools"] == TOOLS
    pair = {"chosen": [user], "rejected": [user], "tools": found}
    assert ChosenRejectedToMessages()(pair)["tools"] == TOOLS
    other = OpenAIToMessages(column_map={"messages": "m", "tools": "t"})
    assert other({"m": [user], "t": found, "tools": "no"})["tools"] == TOOLS
    without = OpenAIToMessages(column_map={"messages": "m", "tools": None})
    assert without.column_map == {"messages": "m"} and "tools" not in without({"m": [user], "tools": found})
    for nothing in (None, "", [], "[]"):
        assert "tools" not in openai(user, tools=nothing)


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}, "'arguments' of the call of 'f' is no JSON"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}, r"is \[1\]; expected names and values"),
        ({"tool_calls": ["f"]}, "a tool call is 'f'; expected"),
        ({"function_call": CALL}, "write the call as 'tool_calls'"),
        ({"content": "A", "weight": 0.5}, "'weight': 0.5.*expected 0 or 1"),
        ({"content": "A", "train": "no"}, "'train': 'no'"),
        ({"content": "A", "weight": 1, "train": False}, "contradict"),
        ({"content": ""}, "only the assistant calls tools"),
    ],
)
def test_wrong_turns(turn, said):
    with pytest.raises(DataError, match=said):
        if "only" in said:
            Message("user", [PART])
        openai({"role": "assistant", **turn})


def test_wrong_tools():
    with pytest.raises(DataError, match=r"'tools' is .*'f'.*tools: null"):
        openai({"role": "user", "content": "?"}, tools=["f"])
    with pytest.raises(DataError, match="'tools' is no JSON"):
        openai({"role": "user", "content": "?"}, tools="f(x)")
    with pytest.raises(DataError, match="is no JSON"):
        sharegpt({"from": "function_call", "value": "f(x)"})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([{}, {}, {}, {}], [True, False, True, False]),
        ([{}, {"weight": 0}, {}, {"weight": 1}], [True, True, True, False]),
        ([{}, {"train": False}, {}, {"train": True}], [True, True, True, False]),
        ([{"train": True}, {"masked": True}, {"masked": False}, {"weight": None}], [False, True, False, False]),
    ],
)
def test_a_turn_says_whether_it_is_trained_on(flags, expected):
    roles, speakers = ("user", "assistant") * 2, ("human", "gpt") * 2
    in_openai = [{"role": role, "content": "x", **flag} for role, flag in zip(roles, flags)]
    in_sharegpt = [{"from": speaker, "value": "x", **flag} for speaker, flag in zip(speakers, flags)]
    assert masks(openai(*in_openai)["messages"]) == masks(sharegpt(*in_sharegpt)["messages"]) == expected
    pair = ChosenRejectedToMessages()({"chosen": in_openai, "rejected": in_openai})
    assert masks(pair["chosen"]) == masks(pair["rejected"]) == expected


def test_a_turn_goes_before_the_strategy():
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x", "weight": 0}]
    for strategy in ("train_on_all", "train_on_last", ["user", "assistant"]):
        assert masks(OpenAIToMessages(masking_strategy=strategy)({"messages": turns})["messages"])[1]


def test_masks_by_role():
    messages = [Message(role, "x") for role in ("system", "user", "assistant", "tool", "assistant")]
    mask_messages(messages, ["assistant", "tool"])
    assert masks(messages) == [True, True, False, False, False]
    for wrong in (["assistant", "gpt"], [], "assistant", 3):
        with pytest.raises(ConfigError, match="a list of roles"):
            mask_messages(messages, wrong)
    assert OpenAIToMessages(False, masking_strategy=["assistant", "tool"]).masking_strategy == ("assistant", "tool")
    for contradiction in (True, False):
        with pytest.raises(ConfigError, match="contradicts"):
            OpenAIToMessages(contradiction, masking_strategy=["user", "tool"])


QUESTION, OWN = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}], {"from": "system", "value": "S"}


@pytest.mark.parametrize("column", [None, "told"])
def test_a_column_with_the_system_message(column):
    columns = column and {"conversations": "conversations", "system": column}
    name = column or "system"
    for turns in (QUESTION, [OWN, *QUESTION], [{"from": "system", "value": "S\n"}, *QUESTION]):
        messages = sharegpt(*turns, column_map=columns, **{name: "S"})["messages"]
        assert [(m.role, m.text_content.strip(), m.masked) for m in messages[:2]] == [
            ("system", "S", True),
            ("user", "?", True),
        ]
    for nothing in ({}, {name: ""}, {name: None}, {"other": "S"}):
        assert len(sharegpt(*QUESTION, column_map=columns, **nothing)["messages"]) == 2
    with pytest.raises(DataError, match=f"two system messages, 'T' in '{name}' and 'S'.*system: null"):
        sharegpt(OWN, *QUESTION, column_map=columns, **{name: "T"})
    with pytest.raises(DataError, match=f"'{name}' is 5; expected a text, the system message.*system: null"):
        sharegpt(*QUESTION, column_map=columns, **{name: 5})


def test_the_column_with_the_system_message_is_left_out_or_replaced():
    assert len(sharegpt(*QUESTION, column_map={"system": None}, system="S")["messages"]) == 2
    row = {"conversations": [OWN, *QUESTION], "system": "T"}
    messages = ShareGPTToMessages(new_system_prompt="N")(row)["messages"]
    assert [m.text_content for m in messages] == ["N", "?", "!"] and messages[0].masked


def test_a_system_message_is_masked_alike_wherever_it_stands():
    rows = {"conversations": [OWN, *QUESTION]}, {"conversations": QUESTION, "system": "S"}
    for options in ({}, {"train_on_input": True}, {"masking_strategy": ["system"]}):
        inside, beside = (ShareGPTToMessages(**options)(row)["messages"] for row in rows)
        assert inside == beside


ASKED = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "1"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "3"},
]
ANSWERED = [{"role": "assistant", "content": "4"}]


@pytest.mark.parametrize(
    ("prompt", "completion", "settings", "masked"),
    [
        ("3", "4", {}, [True, False]),
        (ASKED, ANSWERED, {}, [True, True, True, True, False]),
        (ASKED, "4", {}, [True, True, True, True, False]),
        ("3", ANSWERED, {}, [True, False]),
        (ASKED, ANSWERED, {"train_on_input": True}, [False] * 5),
        (ASKED, ANSWERED, {"masking_strategy": "train_on_last"}, [True, True, True, True, False]),
        (ASKED, ANSWERED, {"masking_strategy": ["assistant"]}, [True, True, False, True, False]),
        ([*ASKED[:2], {**ASKED[2], "weight": 1}, ASKED[3]], ANSWERED, {}, [True, True, False, True, False]),
    ],
)
def test_a_prompt_and_its_completion(prompt, completion, settings, masked):
    transform = InputOutputToMessages(column_map={"input": "prompt", "output": "completion"}, **settings)
    made = transform({"prompt": prompt, "completion": completion, "tools": TOOLS})
    assert masks(made["messages"]) == masked
    assert [message.text_content for message in made["messages"]][-2:] == ["3", "4"]
    assert ("tools" in made) == (isinstance(prompt, list) or isinstance(completion, list))


def test_a_prompt_of_another_form():
    with pytest.raises(DataError, match="turn 1 of 1 in 'input': it has 'from', 'value', ShareGPT's form"):
        InputOutputToMessages()({"input": [{"from": "human", "value": "1"}], "output": "2"})


def test_parts_of_a_message_that_are_not_trained_on():
    detail = [{"begin_offset": 0, "end_offset": 1, "train": False}]
    with pytest.raises(DataError, match="turn 1 of 1 in 'messages': it has 'train_detail'"):
        openai({"role": "assistant", "content": "ab", "train_detail": detail})
