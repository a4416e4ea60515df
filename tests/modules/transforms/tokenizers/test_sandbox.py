"""What a chat template from the Hub cannot do: hang, fill the memory, or end a run with an error of Python's."""

import pickle
from pathlib import Path

import pytest
from tokenizer_files import chat_folder

from torchtune.data import Message
from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer, _sandbox

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
DIALOGUE = [Message("user", "U", masked=True), Message("assistant", "A")]


def model(path: Path, template: str) -> HuggingFaceModelTokenizer:
    return HuggingFaceModelTokenizer(chat_folder(path, template) / "tokenizer.json")


FAULTS = {
    "a division": (
        "\n{{ 1 // 0 }}",
        "fails in line 2, on .*'user', 'assistant'.*: ZeroDivisionError: integer",
    ),
    "a text that is not there": ("{{ messages[0].content.index('zzz') }}", "ValueError: substring not found"),
    "a missing variable": ("{{ foo.bar.baz }}", "line 1.*: 'foo' is undefined"),
    "a macro without end": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "a wide range": ("{% for i in range(10**9) %}{% endfor %}", "OverflowError: Range too big"),
    "another template": ("{% include 'x' %}", "TypeError: no loader"),
    "a wish": ("{{ raise_exception('No!') }}", "refuses a dialogue with the roles .*'user', 'assistant'.*: No!$"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_is_told(kind, tmp_path):
    template, said = FAULTS[kind]
    with pytest.raises(DataError, match=f"(?s)the chat template {'' if said.startswith(('f', 'r')) else '.*'}{said}"):
        model(tmp_path, template).tokenize_messages(DIALOGUE)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "RecursionError"),
        ("\n{% for m in messages %}", "line 2: Unexpected end of template"),
    ],
)
def test_what_is_no_template(template, said, tmp_path):
    with pytest.raises(DataError, match=f"the chat template does not parse: {said}"):
        HuggingFaceModelTokenizer(chat_folder(tmp_path, CHATML) / "tokenizer.json", chat_template=template)


ENDLESS = {
    "loops in loops": "{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}",
    "a filtered loop": "{% set n = range(999) %}{% for i in n %}{% for j in n if false %}{% endfor %}{% endfor %}",
    "a recursive loop": "{% for i in 'abcdefghi' recursive %}{{ loop('abcdefghi') if loop.depth < 9 }}{% endfor %}",
    "a macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "ranges": "{% for i in range(999) %}{{ range(999) | sum }}{% endfor %}",
    "a text that is repeated": "{{ 'ab' * 10**10 }}",
    "a list that is repeated": "{{ 10**10 * [messages] }}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_rendering_has_a_number_of_steps(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(_sandbox, "MAX_STEPS", 10_000)
    monkeypatch.setattr(_sandbox, "STEPS_OF_A_PAIR", 0)
    tokenizer = model(tmp_path, ENDLESS[kind])
    with pytest.raises(DataError, match=r"fails in line 1, .*: it takes more than 10,000 steps \(turns of loops\)"):
        tokenizer.tokenize_messages(DIALOGUE)


def test_each_rendering_has_its_own_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(_sandbox, "MAX_STEPS", 10)
    monkeypatch.setattr(_sandbox, "STEPS_OF_A_PAIR", 0)
    tokenizer = model(tmp_path, CHATML)
    rows = [{"role": "user", "content": "U"}]
    for _ in range(3):
        assert tokenizer.render_template(rows * 10).count("U") == 10
    with pytest.raises(DataError, match="more than 10 steps"):
        tokenizer.render_template(rows * 11)


def test_a_template_may_look_at_all_messages_for_each(tmp_path):
    tokenizer = model(tmp_path, "{% for m in messages %}{% for other in messages %}{% endfor %}U{% endfor %}")
    assert len(tokenizer.render_template([{"role": "user", "content": ""}] * 1_100)) == 1_100


def test_steps_are_enough_for_any_dialogue_and_change_nothing(tmp_path):
    template = (
        "{% macro line(m, depth) %}{{ '  ' * depth }}{{ m.content }}\n{% endmacro %}"
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ '' if loop.last else ',' }}{{ line(m, 2) }}"
        "{% else %}nobody{% endfor %}{{ 2 ** 3 * 2 }}"
    )
    tokenizer = model(tmp_path, template)
    rows = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user")]
    assert tokenizer.render_template(rows) == "1,    u\n2    u\n16"
    assert pickle.loads(pickle.dumps(tokenizer)).render_template(rows[1:2]) == "nobody16"
    assert tokenizer.render_template(rows * 10_000).count("u") == 20_000


@pytest.mark.parametrize("power", ["9 ** (9 ** 9)", "2 ** 99999", "10**3000 * 10**3000"])
def test_numbers_have_a_size(power, tmp_path):
    with pytest.raises(DataError, match=r"\*+ makes a number of [\d,]+ bits"):
        model(tmp_path, f"{{{{ ({power}) > 1 }}}}").tokenize_messages(DIALOGUE)


def test_texts_have_a_size(tmp_path, monkeypatch):
    monkeypatch.setattr(_sandbox, "MAX_CHARS", 100)
    with pytest.raises(DataError, match="it writes 101 characters"):
        model(tmp_path, "{{ 'a' | center(101) }}").tokenize_messages(DIALOGUE)


MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def test_marks_are_not_to_be_forged(tmp_path):
    tokenizer = model(tmp_path, "\ufdd1generation\ufdd1\ufdd0" + MARKED)
    messages = [Message("user", "\ufdd1\ufdd0", masked=True), Message("assistant", "\ufdd1A")]
    ids, mask = tokenizer.tokenize_messages(messages)
    assert tokenizer.decode(ids) == "\ufdd1generation\ufdd1\ufdd0\ufdd1\ufdd0\ufdd1A"
    assert tokenizer.decode([i for i, masked in zip(ids, mask) if not masked]) == "\ufdd1A"


@pytest.mark.parametrize("taken", ["[:-1]", "[1:]", "[:30]", "[10:]"])
def test_marks_that_are_taken_apart(taken, tmp_path):
    tokenizer = model(tmp_path, f"{{% set all %}}{MARKED}{{% endset %}}{{{{ all{taken} }}}}")
    with pytest.raises(DataError, match="it takes what it marks with {% generation %} apart"):
        tokenizer.tokenize_messages(DIALOGUE[1:])
