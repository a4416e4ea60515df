"""Which tokens of a dialogue are trained on, whatever its chat template does to it."""

from pathlib import Path

import pytest
from tokenizer_files import chat_folder

from torchtune.data import Message
from torchtune.datasets._prepare import fingerprint_of
from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def _dialogue() -> list[Message]:
    return [
        Message("system", "S", masked=True),
        Message("user", "Ü 🙂", masked=True),
        Message("assistant", "A"),
        Message("user", "U2", masked=True),
        Message("assistant", "A2"),
    ]


def _rows(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text_content} for message in messages]


def _model(path: Path, template: str) -> HuggingFaceModelTokenizer:
    return HuggingFaceModelTokenizer(chat_folder(path, template) / "tokenizer.json")


def _text(tokenizer: HuggingFaceModelTokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)


def _trained(tokenizer: HuggingFaceModelTokenizer, messages: list[Message]) -> str:
    ids, mask = tokenizer.tokenize_messages(messages)
    return _text(tokenizer, [i for i, m in zip(ids, mask) if not m])


def test_an_order_that_cannot_be_followed_is_refused(tmp_path):
    backwards = "{% for m in messages[::-1] %}{{ m.content }}{% endfor %}"
    tokenizer = _model(tmp_path, backwards)
    for messages, said in ((_dialogue(), "first 2 of 5 messages differently"), (_dialogue()[1:3], "first 1 of 2")):
        with pytest.raises(DataError, match=said):
            tokenizer.tokenize_messages(messages)
    for message in (everything := _dialogue()):
        message.masked = False
    assert not any(tokenizer.tokenize_messages(everything)[1])


# What released templates do to messages when others follow, in small.
CHANGING = {
    # Qwen 3: the last answer has its thoughts, or empty ones; those before have none.
    "thoughts": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% set said = m.content.split('</t>') %}"
    "{% if m.role == 'assistant' and loop.last %}<t>{{ said[0].replace('<t>', '') if said | length > 1 }}</t>\n"
    "{% endif %}{{ said[-1] }}<|im_end|>\n{% endfor %}",
    # Mistral: the system message goes to the last thing asked, a space comes before answers.
    "system": "{% set last = messages | selectattr('role', 'equalto', 'user') | list | last %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{% if m == last and messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n{% endif %}{{ m.content }}[/INST]{% elif m.role == 'assistant' %} {{ m.content }}</s>"
    "{% endif %}{% endfor %}",
    # gpt-oss: the last answer is closed by another token.
    "closing": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}"
    "{{ '</s>' if loop.last and m.role == 'assistant' else '<|im_end|>' }}{% endfor %}",
    # Phi 3: an end of the text that only the whole has.
    "end": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}</s>",
}
TRAINED = {
    "thoughts": ["<|im_start|>assistant\nA<|im_end|>\n", "<|im_start|>assistant\n<t></t>\nA2<|im_end|>\n"],
    "system": ["A</s>", " A2</s>"],
    "closing": ["<|im_start|>assistant\nA<|im_end|>", "<|im_start|>assistant\nA2</s>"],
    "end": ["A<|im_end|>", "A2<|im_end|>\n</s>"],
}


@pytest.mark.parametrize("kind", CHANGING)
def test_answers_are_found_where_a_template_changes_what_came_before(kind, tmp_path):
    tokenizer = _model(tmp_path, CHANGING[kind])
    for chosen in ([0, 1], [0], [1]):
        messages = _dialogue()
        for number, place in enumerate((2, 4)):
            messages[place].masked = number not in chosen
        assert _text(tokenizer, tokenizer.tokenize_messages(messages)[0]) == tokenizer.render_template(_rows(messages))
        assert _trained(tokenizer, messages) == "".join(TRAINED[kind][i] for i in chosen)


def test_answers_with_thoughts(tmp_path):
    tokenizer = _model(tmp_path, CHANGING["thoughts"])
    messages = _dialogue()
    messages[2], messages[4] = (Message("assistant", f"<t>A</t>{text}") for text in "AB")
    expected = "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>assistant\n<t>A</t>\nB<|im_end|>\n"
    assert _trained(tokenizer, messages) == expected


MARKED = {
    "turns": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}",
    "inside a macro": "{% macro say(text) %}<{% generation %}{{ text | upper }}{% endgeneration %}>{% endmacro %}"
    "{% for m in messages %}{{ say(m.content) if m.role == 'assistant' else m.content }}{% endfor %}",
    "two of one answer": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %} and {% generation %}</s>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("kind", MARKED)
def test_marks_of_the_template_are_read_as_transformers_reads_them(kind, tmp_path):
    from transformers import PreTrainedTokenizerFast

    ours = _model(tmp_path, MARKED[kind])
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), bos_token="<s>", eos_token="</s>", chat_template=MARKED[kind]
    )
    expected = theirs.apply_chat_template(_rows(_dialogue()), return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = ours.tokenize_messages(_dialogue())
    assert ids == expected["input_ids"]
    if kind == "inside a macro":  # which transformers does not see
        assert _trained(ours, _dialogue()) == "AA2"
    else:
        assert [int(not m) for m in mask] == expected["assistant_masks"] and not all(mask)


def test_marks_are_those_of_the_message(tmp_path):
    """Of an answer that is masked nothing is trained on; marks say nothing of what was asked."""
    tokenizer = _model(tmp_path, MARKED["turns"])
    asked_and_answered = "<|im_start|>user\nÜ 🙂<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    for places, expected in (((4,), "A2<|im_end|>"), ((1, 2), asked_and_answered)):
        messages = _dialogue()
        for number, message in enumerate(messages):
            message.masked = number not in places
        assert _trained(tokenizer, messages) == expected


@pytest.mark.parametrize("kind", MARKED)
@pytest.mark.parametrize("place", [2, 4])
def test_the_marks_of_one_of_two_answers(kind, place, tmp_path):
    """Of the others, and between the marks, nothing is trained on."""
    tokenizer = _model(tmp_path, MARKED[kind])
    answer = "A" if place == 2 else "A2"
    expected = {"turns": f"{answer}<|im_end|>", "inside a macro": answer, "two of one answer": f"{answer}</s>"}
    assert _trained(tokenizer, _chosen(place)) == expected[kind]


def _chosen(*places: int) -> list[Message]:
    messages = _dialogue()
    for number, message in enumerate(messages):
        message.masked = number not in places
    return messages


LAST_ALONE = CHATML.replace("{{ m.content }}<|im_end|>", "{% if loop.last and m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}")  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (_dialogue(), "A2<|im_end|>"),
        (_dialogue()[:4], ""),
        (_chosen(2), ""),
        (_chosen(4), "A2<|im_end|>"),
        ([Message("assistant", "A")], "A<|im_end|>"),
        ([Message("assistant", "A"), Message("assistant", "B")], "B<|im_end|>"),
    ],
)
def test_where_a_template_with_marks_marks_nothing_there_is_no_guess(messages, expected, tmp_path):
    assert _trained(_model(tmp_path, LAST_ALONE), messages) == expected


def test_marks_round_everything_are_those_of_each_answer(tmp_path):
    tokenizer = _model(tmp_path, f"{{% generation %}}{CHATML}{{% endgeneration %}}")
    assert _trained(tokenizer, _chosen(4)) == "<|im_start|>assistant\nA2<|im_end|>\n"


# Two answers in a row: their marks hold what ends the first, which is written otherwise when it is the last.
IN_A_ROW = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{{ '</s>' if loop.last else '<|im_end|>' }}\n{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
)


@pytest.mark.parametrize(("place", "expected"), [(1, "A<|im_end|>\n"), (2, "B</s>\n")])
def test_marks_of_answers_in_a_row(place, expected, tmp_path):
    messages = [Message("user", "U"), Message("assistant", "A"), Message("assistant", "B")]
    for number, message in enumerate(messages):
        message.masked = number != place
    assert _trained(_model(tmp_path, IN_A_ROW), messages) == expected


def test_marks_in_another_order_are_refused(tmp_path):
    backwards = MARKED["turns"].replace("in messages", "in messages[::-1]")
    with pytest.raises(DataError, match="first 4 of 5 messages differently"):
        _trained(_model(tmp_path, backwards), _chosen(4))


# What released templates write before the first message: the beginning token, and where there is no system message a
# default, the date, or what tools there are. The last form has a header that counts.
_TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
INJECTING = {
    "nothing": ("", _TURNS),
    "bos": ("<s>", "{{ bos_token }}" + _TURNS),
    "default": (
        "<|im_start|>system\nBe kind.<|im_end|>\n",
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + _TURNS,
    ),
    "date": ("<s><|im_start|>system\n1999<|im_end|>\n", "{{ bos_token }}<|im_start|>system\n{{ strftime_now('%Y') }}"
        "{% if messages[0].role == 'system' %}\n{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}"
        "<|im_end|>\n" + _TURNS),
    "end": ("<s>", "{{ bos_token }}" + _TURNS.replace("\n{% endfor", "{{ '\n' if not loop.last }}{% endfor")),
    "between": ("", _TURNS.replace("<|im_start|>", "{{ '\n' if not loop.first }}<|im_start|>", 1)),
    "by turns": ("<s>", "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('by turns') }}{% endif %}[INST]{{ m.content }}{% endfor %}"),
    "counts": ("<s>1: ", "{{ bos_token }}{% for m in messages %}{{ loop.index }}: {{ m.content }}{% endfor %}"),
}  # fmt: skip
_TALKS = {
    "answer first": [Message("assistant", "A"), Message("user", "U", masked=True), Message("assistant", "B")],
    "answer alone": [Message("assistant", "A")],
    "question": [Message("user", "U"), Message("assistant", "A", masked=True)],
    "everything": [Message("user", "U"), Message("assistant", "A"), Message("user", "U2")],
    "call": [Message("assistant", '{"name": "f", "arguments": {}}', ipython=True), Message("user", "U", masked=True)],
}


@pytest.mark.parametrize("talk", _TALKS)
@pytest.mark.parametrize("kind", INJECTING)
def test_what_the_template_writes_before_the_first_message_is_not_trained_on(kind, talk, tmp_path):
    added, template = INJECTING[kind]
    if kind == "by turns" and _TALKS[talk][0].role == "assistant":
        return
    tokenizer = HuggingFaceModelTokenizer(chat_folder(tmp_path, template) / "tokenizer.json", today="1999-12-31")
    ids, mask = tokenizer.tokenize_messages(_TALKS[talk])
    masked = _text(tokenizer, ids[: mask.index(False)])
    assert masked == added and _text(tokenizer, ids).startswith(added)
    assert talk != "everything" or not any(mask[mask.index(False) :])


def test_the_system_message_begins_where_the_model_was_not_told_the_date(tmp_path):
    """Its header has been written by then, so it begins with its content."""
    tokenizer = HuggingFaceModelTokenizer(chat_folder(tmp_path, INJECTING["date"][1]) / "tokenizer.json")
    messages = [Message("system", "S"), Message("user", "U")]
    assert _trained(tokenizer, messages) == "S<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"


def test_other_tools_and_another_day_are_not_trained_on(tmp_path):
    template = "{{ strftime_now('%Y') }}{% for t in tools or [] %}{{ t.function.name }};{% endfor %}" + _TURNS
    tokenizer = HuggingFaceModelTokenizer(chat_folder(tmp_path, template) / "tokenizer.json")
    for names in ([], ["f"], ["f", "g"], []):
        tools = [{"type": "function", "function": {"name": name}} for name in names]
        ids, mask = tokenizer.tokenize_messages([Message("user", "U")], tools=tools)
        assert _text(tokenizer, ids[mask.index(False) :]) == "<|im_start|>user\nU<|im_end|>\n"
    tokenizer._injected["user",] = "1066"
    assert _trained(tokenizer, [Message("user", "U")]) == "<|im_start|>user\nU<|im_end|>\n"


def test_what_is_found_out_in_use_is_not_part_of_the_tokenizer(tmp_path):
    tokenizer = _model(tmp_path, INJECTING["default"][1])
    before = fingerprint_of("", tokenizer)
    tokenizer.tokenize_messages(_TALKS["everything"])
    assert before is not None and fingerprint_of("", tokenizer) == before


CALLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}{% for c in m.tool_calls %}CALL "
    "{{ c.function.name }}{{ c.function.arguments | tojson }}{{ c.id | length }}{% endfor %}{% else %}"
    "{{ m.content }}{% endif %}{{ m.tool_call_id }}<|im_end|>\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (CALLS, 'CALL f{"x": 1}9'),
        (CALLS.replace("m.tool_calls %}{%", "m.content is none %}{%"), 'CALL f{"x": 1}9'),
        (CHATML, '{"name": "f", "arguments": {"x": 1}}'),
    ],
    ids=["beside an empty text", "in place of a text", "unknown to the template"],
)
def test_tool_calls(template, written, tmp_path):
    """A call is written as the template writes calls, or else as it stands; never left out."""
    tokenizer = _model(tmp_path, template)
    call = Message("assistant", '{"name": "f", "arguments": {"x": 1}}', ipython=True, eot=False)
    asked, result = Message("user", "U", masked=True), Message("ipython", "42", masked=True)
    messages = [asked, call, result, Message("assistant", "A")]
    expected = f"<|im_start|>assistant\n{written}<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    assert _trained(tokenizer, messages) == expected
    text = _text(tokenizer, tokenizer.tokenize_messages(messages)[0])
    assert "<|im_start|>tool\n42" in text and ("000010000" in text) == written.startswith("CALL")
    parts = [{"type": "tool_call", "content": {"name": "f", "arguments": {"x": 1}}}]
    if written.startswith("CALL"):
        assert _trained(tokenizer, [asked, Message("assistant", parts), *messages[2:]]) == expected
    else:
        with pytest.raises(DataError, match="does not write tool calls"):
            tokenizer.tokenize_messages([asked, Message("assistant", parts)])
    in_words = [asked, Message("assistant", "call f(1)", ipython=True)]
    assert _trained(tokenizer, in_words) == "<|im_start|>assistant\ncall f(1)<|im_end|>\n"


def test_thoughts_and_names_are_written_where_the_template_has_a_place_for_them(tmp_path):
    """gpt-oss says thinking, Qwen 3 reasoning_content; thoughts that are not written are not passed over."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.name }}\n"
        "{% if m.thinking %}<t>{{ m.thinking }}</t>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    asked = Message("user", "U", masked=True, name="Ann")
    parts = [{"type": "reasoning_content", "content": "why"}, {"type": "text", "content": "A"}]
    tokenizer = _model(tmp_path, template)
    assert _trained(tokenizer, [asked, Message("assistant", parts)]) == "<|im_start|>assistant\n<t>why</t>A<|im_end|>\n"
    assert "<|im_start|>userAnn\n" in _text(tokenizer, tokenizer.tokenize_messages([asked])[0])
    with pytest.raises(DataError, match="has reasoning_content, which the chat template does not write"):
        _model(tmp_path, CHATML).tokenize_messages([asked, Message("assistant", parts)])


def test_pictures_are_refused(tmp_path):
    with pytest.raises(DataError, match="content of type 'image'"):
        _model(tmp_path, CHATML).tokenize_messages([Message("user", [{"type": "image", "content": None}])])
