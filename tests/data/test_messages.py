"""Messages and how rows of datasets become them; the expectations are what torchtune 0.6.1 gives."""

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
    with pytest.raises(ConfigError, match=r"\['instruction'\]"):
        AlpacaToMessages(column_map={"instruction": "a"})


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
    with pytest.raises(DataError, match="'output' is empty"):
        InputOutputToMessages()({"input": "x", "output": None})


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
        ({"role": "developer", "content": "x"}, "developer"),
    ):
        with pytest.raises(DataError, match=said):
            OpenAIToMessages()({"messages": [turn]})


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
