"""What a chat template from the Hub cannot do: hang, fill the memory, or end a run with an error of Python's."""

import pickle
import tracemalloc
from pathlib import Path

import pytest
from tokenizer_files import chat_folder

from torchtune.data import Message
from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer, _sandbox
from torchtune.modules.transforms.tokenizers._chat_template import ChatTemplate

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


LARGE = {
    "a filter that pads": "'a' | center(10**10)",
    "a filter that indents": "'a' | indent(width=10**10)",
    "a filter that replaces": "('a' * 9000) | replace('a', 'a' * 90000)",
    "the same, by names": "('a' * 9000) | replace(new='a' * 90000, old='a')",
    "a filter that wraps": "('a' * 9000) | wordwrap(1, true, 'a' * 90000)",
    "a filter that joins": "(['a' * 90000] * 9000) | join",
    "a filter that joins letters": "('a' * 9000) | join('a' * 90000)",
    "a filter that joins one part of each": "([{'a': 'a' * 90000}] * 9000) | join(attribute='a')",
    "a filter that joins what another makes": "(['a'] * 9000) | map('replace', 'a', 'a' * 90000) | join",
    "a filter that rounds": "1.5 | round(10**10)",
    "a filter that fills a list": "[1] | batch(10**10, 0) | list",
    "a filter that makes lists": "[1] | slice(10**10) | list",
    "a filter for JSON": "[1] | tojson(indent=10**10)",
    "a filter's format": "'%10000000000d' | format(1)",
    "a format": "'{:10000000000}'.format(1)",
    "a format with a width that is given": "'{:{w}}'.format(1, w='10000000000')",
    "a format of a mapping": "'{a:10000000000}'.format_map({'a': 1})",
    "a remainder": "'%10000000000d' % 1",
    "a remainder with a precision": "'%.10000000000f' % 1",
    "a remainder with a width that is given": "'%*d' % (10**10, 1)",
    "a method that pads": "'a'.ljust(10**10)",
    "the same, found by a filter": "('a' | attr('ljust'))(10**10)",
    "a method that replaces": "('a' * 9000).replace('', 'a' * 90000)",
    "a method that joins": "('a' * 9000).join(['a'] * 90000)",
    "a method that translates": "('a' * 9000).translate({97: 'a' * 90000})",
    "a method with tabs": "'\t'.expandtabs(tabsize=10**10)",
    "a number's method": "(5).to_bytes(10**10, 'big')",
}
GROWING = {
    "a sum": "{% set n.x = n.x + n.x %}",
    "a concat": "{% set n.x = n.x ~ n.x %}",
    "a block": "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}",
    "a list that is joined": "{% set n.x = [n.x, n.x] | join %}",
    "a format": "{% set n.x = '{0}{0}'.format(n.x) %}",
    "a remainder": "{% set n.x = '%s%s' % (n.x, n.x) %}",
    "a filter": "{% set n.x = n.x | replace('a', 'aa') %}",
    "a method": "{% set n.x = n.x.replace('a', 'aa') %}",
    "a text that is written": "{{ y }}",
    "a sum that is written": "{{ y + y }}",
    "lists of texts": "{% set n.l = n.l + [y] %}",
}


@pytest.mark.parametrize(
    "template",
    [
        *(f"{{{{ {expression} }}}}" for expression in LARGE.values()),
        *(
            "{% set y = 'a' * 900000 %}{% set n = namespace(x='a', l=[]) %}"
            "{% for i in range(900) %}" + body + "{% endfor %}"
            for body in GROWING.values()
        ),
    ],
    ids=[*LARGE, *(f"growing by {kind}" for kind in GROWING)],
)
def test_texts_and_lists_have_a_size_before_they_are_made(template):
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="it makes texts or lists of more than 100,000,000 characters$"):
            ChatTemplate(template).render(messages=[])
        assert tracemalloc.get_traced_memory()[1] < 400_000_000  # a text, what it is made of, and the one before
    finally:
        tracemalloc.stop()


NESTED = {
    "a list": "[n.x, n.x]",
    "a tuple": "(n.x, n.x)",
    "a mapping": "{'a': n.x, 'b': n.x}",
    "a function": "dict(a=n.x, b=n.x)",
    "a namespace": "namespace(a=n.x, b=n.x)",
    "lists in a row": "n.x + n.x",
}


@pytest.mark.parametrize("kind", NESTED)
def test_what_holds_itself_many_times_has_a_size(kind, monkeypatch):
    monkeypatch.setattr(_sandbox, "MAX_STEPS", 10_000)
    template = (
        "{% set n = namespace(x=['a']) %}{% for i in range(99) %}{% set n.x = " + NESTED[kind] + " %}{% endfor %}"
    )
    with pytest.raises(DataError, match="it takes more than 10,000 steps"):
        ChatTemplate(template + "{{ n.x }}").render(messages=[])


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        ("1 + 2 + 3", "6"),
        ("'a' + 'b' + 'c' + 'd' + 'e' + 'f' + 'g' + 'h' + 'i' + 'j' + 'k' + 'l'", "abcdefghijkl"),
        ("('a' + 'b') | upper + ('c' + ('d' + 'e'))", "ABcde"),
        ("[1] + [m.role] + messages[1:]", "[1, 'user']"),
        ("'a' ~ 1 ~ none ~ nothing ~ [2]", "a1None[2]"),
        ("7 % 4 ~ 7.5 % 2", "31.5"),
        ("'%s-%d%%' % (m.role, 3)", "user-3%"),
        ("'%s is %05.1f' | format('a', 2.25)", "a is 002.2"),
        ("'**{}** 12345678901 {:>4}'.format(m.content, 1)", "**12345678901** 12345678901    1"),
        ("'a-b' | replace('-', '--') | center(8) | replace(old=' ', new='.')", "..a--b.."),
        ("messages | map(attribute='role') | join(', ')", "user"),
        ("messages | join(', ', attribute='role')", "user"),
        ("[1, 2, 3] | batch(2, 0) | list", "[[1, 2], [3, 0]]"),
        ("{'a': [m.role, 1]} | tojson(indent=1)", '{\n "a": [\n  "user",\n  1\n ]\n}'),
        ("'\n'.join([m.role, 'b']).ljust(8, '.')", "user\nb.."),
        ("(m.content | e) + '<'", "12345678901&lt;"),
    ],
)
def test_what_is_counted_is_written_as_before(expression, written):
    message = {"role": "user", "content": "12345678901"}
    for template in (f"{{{{ {expression} }}}}", f"{{% set x = {expression} %}}{{{{ x }}}}"):
        assert ChatTemplate(template).render(messages=[message], m=message)[0] == written


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
