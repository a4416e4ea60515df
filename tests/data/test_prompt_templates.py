"""Prompt templates; the expectations are what torchtune 0.6.1 gives."""

import pytest

from torchtune.data import (
    ChatMLTemplate,
    GrammarErrorCorrectionTemplate,
    Message,
    PromptTemplate,
    QuestionAnswerTemplate,
    SummarizeTemplate,
    truncate,
)
from torchtune.data._prompt_templates import _get_prompt_template
from torchtune.errors import ConfigError


def _parts(message: Message) -> list[str]:
    return [part["content"] for part in message.content]


def test_template_surrounds_content_by_role():
    messages = [Message("system", "S"), Message("user", "U", masked=True), Message("assistant", "A", eot=False)]
    made = PromptTemplate({"user": ("<u>", "</u>"), "assistant": ["", "</a>"]})(messages)
    assert [_parts(m) for m in made] == [["S"], ["<u>", "U", "</u>"], ["A", "</a>"]]
    assert [(m.masked, m.eot) for m in made] == [(False, True), (True, True), (False, False)]
    assert _parts(messages[1]) == ["U"]  # the messages themselves stay as they are


def test_template_keeps_what_else_a_message_has():
    called = Message("assistant", [{"type": "tool_call", "content": {"name": "f", "arguments": {}}}])
    told = Message("tool", "2", name="f", tool_call_id="c1")
    made = PromptTemplate({"tool": ("<", ">"), "assistant": ("", "!")})([called, told])
    assert made[0].tool_calls == called.tool_calls and _parts(made[1]) == ["<", "2", ">"]
    assert (made[1].name, made[1].tool_call_id) == ("f", "c1")


def test_template_keeps_images_in_place():
    parts = [{"type": "image", "content": "I"}, {"type": "text", "content": "t"}]
    assert _parts(PromptTemplate({"user": ("a", "b")})([Message("user", parts)])[0]) == ["a", "I", "t", "b"]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"human": ("a", "b")}, "'human'"),
        ({"user": "ab"}, "'ab'"),
        ({"user": ("a",)}, "text after"),
        ({"user": 3}, "is 3"),
        ({"user": ("a", 1)}, "text after"),
    ],
)
def test_template_refuses(template, said):
    with pytest.raises(ConfigError, match=said):
        PromptTemplate(template)


def test_chatml():
    messages = [Message("system", "S"), Message("user", "U"), Message("assistant", "A"), Message("tool", "T")]
    assert [m.text_content for m in ChatMLTemplate()(messages)] == [
        "<|im_start|>system\nS<|im_end|>\n",
        "<|im_start|>user\nU<|im_end|>\n",
        "<|im_start|>assistant\nA<|im_end|>\n",
        "T",
    ]


def test_chatml_leaves_the_answer_open_at_inference():
    asked = [Message("user", "U"), Message("assistant", "")]
    assert ChatMLTemplate()(asked, inference=True)[-1].text_content == "<|im_start|>assistant\n"
    assert ChatMLTemplate()(asked)[-1].text_content == "<|im_start|>assistant\n<|im_end|>\n"
    answered = [Message("user", "U"), Message("assistant", "A")]
    assert ChatMLTemplate()(answered, inference=True)[-1].text_content.endswith("A<|im_end|>\n")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (GrammarErrorCorrectionTemplate, "Correct this to standard English: x\n---\nCorrected: "),
        (SummarizeTemplate, "Summarize this dialogue:\nx\n---\nSummary:\n"),
        (QuestionAnswerTemplate, "Question: x\n\nAnswer: "),
    ],
)
def test_task_templates(template, expected):
    made = template()([Message("user", "x"), Message("assistant", "y")])
    assert [m.text_content for m in made] == [expected, "y"]


def test_a_config_names_a_template():
    assert _get_prompt_template(None) is None
    assert _get_prompt_template({"user": ["a", "b"]}).template == {"user": ("a", "b")}
    made = ChatMLTemplate()
    assert _get_prompt_template(made) is made
    assert isinstance(_get_prompt_template("torchtune.data.ChatMLTemplate"), ChatMLTemplate)
    assert _get_prompt_template("torchtune.data.SummarizeTemplate").template == SummarizeTemplate().template
    for wrong in (3, "torchtune.data.NoSuchTemplate", "os.system"):
        with pytest.raises(ConfigError):
            _get_prompt_template(wrong)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (([1, 2, 3, 4], 2), [1, 2]),
        (([1, 2, 3, 4], 2, 9), [1, 9]),
        (([1, 2], 3, 9), [1, 9]),
        (([1, 2, 9], 3, 9), [1, 2, 9]),
        (([True, True, False, False], 2, False), [True, False]),
        (([1, 2], None, 9), [1, 9]),
        (([1, 2, 3, 4], 2, None, "left"), [3, 4]),
        (([1, 2, 3, 4], 3, 9, "left"), [2, 3, 9]),
        (([1, 2], 5, None, "left"), [1, 2]),
        (([], 5, 9), []),
    ],
)
def test_truncate(arguments, expected):
    given = list(arguments[0])
    assert truncate(*arguments) == expected
    assert arguments[0] == given
    with pytest.raises(ConfigError, match="'up'"):
        truncate([1], 1, truncation_type="up")
