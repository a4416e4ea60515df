"""Messages and how rows of datasets become them; the expectations are what torchtune 0.6.1 gives."""

import json
import math

import pytest

from torchtune.data import (
    AlpacaToMessages,
    ChosenRejectedToMessages,
    InputOutputToMessages,
    MaskingStrategy,
    Message,
    OpenAIToMessages,
    ShareGPTToMessages,
    mask_messages,
    validate_messages,
)
from torchtune.errors import ConfigError, DataError

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\ndo\n\n### Input:\nx\n\n### Response:\n"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\ndo\n\n### Response:\n"
)
OPENAI = [
    {"role": "system", "content": "sys"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "u2"},
    {"role": "assistant", "content": "a2"},
]
SHAREGPT = [
    {"from": {"user": "human", "assistant": "gpt"}.get(turn["role"], "system"), "value": turn["content"]}
    for turn in OPENAI
]


def _short(messages: list[Message]) -> list[tuple[str, str, bool]]:
    return [(m.role, m.text_content, m.masked) for m in messages]


def _turns(*masked: bool, system: str = "sys") -> list[tuple[str, str, bool]]:
    texts = [("system", system), ("user", "u"), ("assistant", "a"), ("user", "u2"), ("assistant", "a2")]
    return [(role, text, mask) for (role, text), mask in zip(texts, masked, strict=True)]


def test_message_keeps_parts():
    message = Message("user", "x")
    assert message.content == [{"type": "text", "content": "x"}]
    assert (message.masked, message.ipython, message.eot) == (False, False, True)
    parts = [{"type": "text", "content": "x"}, {"type": "image", "content": "I"}, {"type": "text", "content": "y"}]
    mixed = Message("user", parts)
    assert mixed.text_content == "xy" and mixed.get_media() == ["I"] and mixed.contains_media
    assert repr(mixed) == "Message(role='user', content=['x', '<image>', 'y'])"
    assert not message.contains_media and message.get_media() == []


def test_message_from_dict():
    full = {"role": "assistant", "content": "x", "masked": True, "ipython": True, "eot": False, "name": "n"}
    assert Message.from_dict(full) == Message("assistant", "x", True, True, False, name="n")
    assert Message.from_dict({"role": "tool", "content": "x", "tool_call_id": "c"}).tool_call_id == "c"
    assert Message.from_dict({"role": "user", "content": "x", "id": 3}) == Message("user", "x")
    assert Message("user", "x") != Message("user", "x", masked=True)
    with pytest.raises(DataError, match="no 'content'"):
        Message.from_dict({"role": "user"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"role": "developer", "content": "x"}, "'developer'"),
        ({"role": "user", "content": 3}, "is 3"),
        ({"role": "user", "content": None}, "is None"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}]}, "expected a text"),
        ({"role": "user", "content": "x", "ipython": True}, "from 'user'"),
        ({"role": "assistant", "content": [{"type": "image", "content": 1}], "ipython": True}, "holds an image"),
    ],
)
def test_message_refuses(arguments, said):
    with pytest.raises(DataError, match=said):
        Message(**arguments)


def test_mask_messages():
    messages = [Message(turn["role"], turn["content"]) for turn in OPENAI]
    expected = {
        "train_on_all": [False] * 5,
        "train_on_assistant": [True, True, False, True, False],
        "train_on_last": [True, True, True, True, False],
    }
    for strategy, masks in expected.items():
        mask_messages(messages, strategy)
        assert [m.masked for m in messages] == masks
        mask_messages(messages, MaskingStrategy(strategy))
        assert [m.masked for m in messages] == masks
    with pytest.raises(ConfigError, match="train_on_first"):
        mask_messages(messages, "train_on_first")


@pytest.mark.parametrize(
    "roles",
    [
        "user assistant",
        "system user assistant",
        "user assistant user",
        "system user",
        "user assistant ipython assistant",
        "user assistant tool tool assistant user assistant",
        "user assistant ipython user",
    ],
)
def test_dialogues_in_order(roles):
    validate_messages([Message(role, "x") for role in roles.split()])


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ("", "this one has 0"),
        ("user", "this one has 1"),
        ("assistant user", "message 0"),
        ("system assistant", "message 1.*assistant speaks"),
        ("user user assistant", "message 1.*twice"),
        ("user system assistant", "message 1.*come first"),
        ("system system user assistant", "message 1.*come first"),
        ("user assistant assistant", "message 2.*assistant speaks"),
        ("user tool assistant", "message 1.*tool's result"),
    ],
)
def test_dialogues_out_of_order(roles, said):
    with pytest.raises(DataError, match=said):
        validate_messages([Message(role, "x") for role in roles.split()])


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "do", "input": "x", "output": "y", "text": "z"}, WITH_INPUT),
        ({"instruction": "do", "input": "", "output": "y"}, WITHOUT_INPUT),
        ({"instruction": "do", "input": None, "output": "y"}, WITHOUT_INPUT),
        ({"instruction": "do", "output": "y"}, WITHOUT_INPUT),
    ],
)
def test_alpaca(row, prompt):
    made = AlpacaToMessages()(row)
    assert list(made) == ["messages"]
    assert _short(made["messages"]) == [("user", prompt, False), ("assistant", "y", False)]
    for transform in (AlpacaToMessages(train_on_input=False), AlpacaToMessages(masking_strategy="train_on_assistant")):
        assert _short(transform(row)["messages"]) == [("user", prompt, True), ("assistant", "y", False)]


def test_alpaca_columns():
    transform = AlpacaToMessages(column_map={"instruction": "a", "output": "c"})
    assert _short(transform({"a": "do", "input": "x", "c": "{y}"})["messages"])[0][1] == WITH_INPUT
    with pytest.raises(DataError, match="no 'a'; it has 'instruction'"):
        transform({"instruction": "do"})
    with pytest.raises(ConfigError, match=r"\['instruction', 'ouput', 'output'\]; expected instruction, output, input"):
        AlpacaToMessages(column_map={"ouput": "c"})


@pytest.mark.parametrize("renamed", [("instruction",), ("input",), ("output",), ("input", "output"), ()])
def test_alpaca_columns_that_are_not_mapped_have_their_own_names(renamed):
    row = {f"my {name}" if name in renamed else name: said for name, said in zip(("instruction", "input"), ("do", "x"))}
    row["my output" if "output" in renamed else "output"] = "y"
    transform = AlpacaToMessages(column_map={name: f"my {name}" for name in renamed})
    assert [message.text_content for message in transform(row)["messages"]] == [WITH_INPUT, "y"]


def test_input_output():
    row = {"q": "x", "a": "y"}
    columns = {"input": "q", "output": "a"}
    answers = [("user", "x", True), ("assistant", "y", False)]
    assert _short(InputOutputToMessages(column_map=columns)(row)["messages"]) == answers
    prompted = InputOutputToMessages(train_on_input=True, column_map=columns, new_system_prompt="S")
    assert _short(prompted(row)["messages"]) == [
        ("system", "S", True),
        ("user", "x", False),
        ("assistant", "y", False),
    ]
    for given in ({"input": "q"}, {"output": "a"}, {"input": "q", "output": "a", "outptu": "b"}):
        with pytest.raises(ConfigError, match="expected input, output"):
            InputOutputToMessages(column_map=given)
    for found, said in (
        (None, "empty"),
        (3.5, "3.5; expected a text"),
        (math.nan, "nan; exp"),
        (["y"], r"\['y'\]; exp"),
    ):
        with pytest.raises(DataError, match=f"'a' is {said}"):
            InputOutputToMessages(column_map=columns)({"q": "x", "a": found})
    with pytest.raises(DataError, match="no 'input'; it has nothing"):
        InputOutputToMessages()({})
    with pytest.raises(ConfigError, match="column_map.output is null"):
        InputOutputToMessages(column_map={"input": "q", "output": None})


@pytest.mark.parametrize(
    ("transform", "column", "turns"),
    [(OpenAIToMessages, "messages", OPENAI), (ShareGPTToMessages, "conversations", SHAREGPT)],
)
def test_chats(transform, column, turns):
    def made(**kwargs):
        return _short(transform(**kwargs)({column: turns, "id": 1})["messages"])

    assert made() == _turns(True, True, False, True, False)
    assert made(train_on_input=False) == made()
    assert made(train_on_input=True) == made(masking_strategy="train_on_all") == _turns(*[False] * 5)
    assert made(masking_strategy="train_on_last") == _turns(True, True, True, True, False)
    assert made(train_on_input=True, new_system_prompt="N") == _turns(True, *[False] * 4, system="N")
    assert _short(transform(column_map={column: "c"})({"c": turns})["messages"]) == made()
    with pytest.raises(ConfigError, match=f"expected {column}"):
        transform(column_map={"conv": "c"})
    with pytest.raises(DataError, match=f"no '{column}'"):
        transform()({"c": turns})


def test_openai_parts_and_what_is_refused():
    parts = [{"type": "text", "text": "hi"}, {"type": "text", "text": "ho"}]
    message = OpenAIToMessages()({"messages": [{"role": "user", "content": parts}]})["messages"][0]
    assert message.content == [{"type": "text", "content": "hi"}, {"type": "text", "content": "ho"}]
    for turn, said in (
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "'image_url'"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}, "a tool call is {'id': 1}"),
        ({"role": "assistant", "content": None}, "'content' is empty"),
        ({"role": "user", "content": ["abc"]}, "a part of 'content' is 'abc'; expected"),
        ({"role": "assistant", "content": [{"type": "text"}]}, "its 'text' must be there"),
        ({"role": "assistant", "content": [{"type": "text", "text": 3}]}, "its 'text' must be there and be a text"),
        ({"role": "user", "content": {"text": "a"}}, "'content' is {'text': 'a'}; expected a text or a list of parts"),
        ({"role": "model", "content": "x"}, "'role' is 'model'; expected one of system, user, .*developer"),
        ({}, "it has no 'content'; it has nothing"),
    ):
        with pytest.raises(DataError, match=f"^turn 2 of 2 in 'messages': .*{said}"):
            OpenAIToMessages()({"messages": [{"role": "user", "content": "x"}, turn]})


@pytest.mark.parametrize(
    ("transform", "turn", "role"),
    [
        *((OpenAIToMessages, {"role": name, "content": "x"}, "system") for name in ("system", "developer", "System")),
        *((ShareGPTToMessages, {"from": name, "value": "x"}, "user") for name in ("human", "user", "Human", "USER")),
        *(
            (ShareGPTToMessages, {"from": name, "value": "x"}, "assistant")
            for name in ("gpt", "GPT", "assistant", "model", "chatgpt", "bard", "bing")
        ),
    ],
)
def test_names_of_roles(transform, turn, role):
    column = "messages" if transform is OpenAIToMessages else "conversations"
    assert transform()({column: [turn]})["messages"][0].role == role


@pytest.mark.parametrize(
    ("transform", "column", "turns", "said"),
    [
        (OpenAIToMessages, "messages", SHAREGPT, "turn 1 of 5 in 'messages'.*ShareGPT's form.*style: sharegpt"),
        (ShareGPTToMessages, "conversations", OPENAI, "turn 1 of 5 in 'conversations'.*OpenAI's form.*style: openai"),
        (ShareGPTToMessages, "conversations", [*SHAREGPT, OPENAI[1]], "turn 6 of 6"),
        (
            ChosenRejectedToMessages,
            "chosen",
            SHAREGPT,
            "in 'chosen'.*ShareGPT's form.*pairs of answers are read in no other form",
        ),
    ],
)
def test_turns_of_the_other_form_are_told_by_its_name(transform, column, turns, said):
    with pytest.raises(DataError, match=f"(?s){said}"):
        transform()({column: turns, "rejected": turns})


@pytest.mark.parametrize(
    ("transform", "column", "turns"),
    [(OpenAIToMessages, "messages", OPENAI), (ShareGPTToMessages, "conversations", SHAREGPT)],
)
def test_a_dialogue_may_be_json_in_a_text(transform, column, turns):
    assert transform()({column: json.dumps(turns)}) == transform()({column: turns})
    with pytest.raises(DataError, match=f"'{column}' is no JSON"):
        transform()({column: "[{"})
    with pytest.raises(DataError, match=f"'{column}' is 'Hi'; expected a list of turns"):
        transform()({column: "Hi"})


def test_sharegpt_refuses_unknown_speakers():
    with pytest.raises(DataError, match="from 'function_call'"):
        ShareGPTToMessages()({"conversations": [{"from": "function_call", "value": "x"}]})


def test_chosen_rejected():
    row = {"a": OPENAI[1:3], "b": [OPENAI[1], {"role": "assistant", "content": "b"}]}
    transform = ChosenRejectedToMessages(column_map={"chosen": "a", "rejected": "b"})
    assert {name: _short(messages) for name, messages in transform(row).items()} == {
        "chosen": [("user", "u", True), ("assistant", "a", False)],
        "rejected": [("user", "u", True), ("assistant", "b", False)],
    }
    prompted = ChosenRejectedToMessages(train_on_input=True, new_system_prompt="N")
    assert _short(prompted({"chosen": OPENAI, "rejected": OPENAI})["rejected"]) == _turns(
        True, *[False] * 4, system="N"
    )


USER, HELLO = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
SYSTEM, OTHER = {"role": "system", "content": "s"}, {"role": "user", "content": "v"}


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ([USER], [HELLO], "ua"),
        ("u", [HELLO], "ua"),
        ([SYSTEM, USER], [HELLO], "sua"),
        ([USER, HELLO], [OTHER, HELLO], "uava"),
        ([USER, HELLO, OTHER], [HELLO], "uava"),
        ("u", [USER, HELLO], "ua"),
        (" u\n", [USER, HELLO], "ua"),
        ("u", [SYSTEM, USER, HELLO], "sua"),
        ("v", [USER, HELLO, OTHER, HELLO], "uava"),
        ([SYSTEM, USER], [SYSTEM, USER, HELLO], "sua"),
        ([SYSTEM, USER], [USER, HELLO], "sua"),
        ([SYSTEM], [USER, HELLO], "sua"),
        ("", [USER, HELLO], "ua"),
        (None, [USER, HELLO], "ua"),
        ([], [HELLO], "a"),
    ],
)
def test_a_prompt_is_put_before_both_answers(prompt, answer, expected):
    row = {"prompt": prompt, "chosen": answer, "rejected": [*answer[:-1], {"role": "assistant", "content": "b"}]}
    made = ChosenRejectedToMessages()(row)
    assert "".join(m.text_content for m in made["chosen"]) == expected
    assert "".join(m.text_content for m in made["rejected"]) == expected[:-1] + "b"
    assert [m.masked for m in made["chosen"]] == [m.role != "assistant" for m in made["chosen"]]
    named = ChosenRejectedToMessages(column_map={"prompt": "asked"})({**row, "prompt": 3, "asked": prompt})
    assert named["chosen"] == made["chosen"]
    without = ChosenRejectedToMessages(column_map={"prompt": None})(row)
    assert [m.text_content for m in without["chosen"]] == [turn["content"] for turn in answer]


@pytest.mark.parametrize(
    ("prompt", "answer", "said"),
    [
        ("v", [USER, HELLO], "'chosen' begins with a message from 'user'.*'prompt', 'v', is not in it.*prompt: null"),
        ({"text": "u"}, [HELLO], "'prompt' is {'text': 'u'}; expected a text or a list of turns.*prompt: null"),
        ([{"from": "human", "value": "u"}], [HELLO], "turn 1 of 1 in 'prompt'.*ShareGPT"),
    ],
)
def test_prompts_that_do_not_fit(prompt, answer, said):
    with pytest.raises(DataError, match=said):
        ChosenRejectedToMessages()({"prompt": prompt, "chosen": answer, "rejected": answer})


def test_contradicting_arguments_are_refused():
    with pytest.raises(ConfigError, match="contradicts"):
        OpenAIToMessages(train_on_input=True, masking_strategy="train_on_last")
    with pytest.raises(ConfigError, match="contradicts"):
        OpenAIToMessages(train_on_input=False, masking_strategy="train_on_all")
    last = OpenAIToMessages(train_on_input=False, masking_strategy="train_on_last")
    assert last.masking_strategy == "train_on_last"
    with pytest.raises(ConfigError, match="train_on_first"):
        AlpacaToMessages(masking_strategy="train_on_first")


def test_images_are_refused():
    with pytest.raises(ConfigError, match="images"):
        InputOutputToMessages(image_dir="pictures")
    with pytest.raises(ConfigError, match="images"):
        ShareGPTToMessages(column_map={"conversations": "c", "image": "i"})
