"""Tokenizers of families whose checkpoints bring their own chat template, against transformers."""

import json
from pathlib import Path

import pytest
from tokenizer_files import byte_tokenizer

from torchtune.data import Message
from torchtune.models import granite, olmo2, smollm2, smollm3

SPECIAL = ["<|begin|>", "<|end|>", "<|turn|>"]
# What the released templates do, in small: a system message where none is given, a mode with a default and an empty
# thought in the other, an end that the last answer lacks, and the day.
TEMPLATES = {
    "smollm2": (
        "{% if messages[0].role != 'system' %}<|turn|>system\nKind.<|end|>\n{% endif %}"
        "{% for m in messages %}{{ '<|turn|>' ~ m.role ~ '\n' ~ m.content ~ '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
    ),
    "smollm3": (
        "{% if thinks is not defined %}{% set thinks = false %}{% endif %}"
        "<|turn|>system\n{{ 'think' if thinks else 'answer' }}<|end|>\n"
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<|turn|>assistant\n"
        "{{ '' if thinks else '()' }}{{ m.content.lstrip('\n') }}<|end|>\n{% endgeneration %}"
        "{% else %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n{{ '' if thinks else '()' }}{% endif %}"
    ),
    "olmo2": (
        "{{ bos_token }}{% for m in messages %}{{ '<|turn|>' ~ m.role ~ '\n' ~ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% if m.role != 'assistant' or not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
    ),
    "granite": (
        "{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}{% set rest = messages[1:] %}"
        "{% else %}{% set said = strftime_now('%Y') %}{% set rest = messages %}{% endif %}"
        "<|turn|>system{{ said }}<|end|>\n"
        "{% if tools is defined and tools %}<|turn|>{{ tools | tojson(indent=2) }}<|end|>\n{% endif %}"
        "{% for m in rest %}<|turn|>{{ m['role'] }}{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant{% endif %}"
    ),
}
BUILDERS = {
    "smollm2": smollm2.smollm2_tokenizer,
    "smollm3": smollm3.smollm3_tokenizer,
    "olmo2": olmo2.olmo2_tokenizer,
    "granite": granite.granite_tokenizer,
}
DIALOGUE = [
    Message("system", "S", masked=True),
    Message("user", "Ü 🙂", masked=True),
    Message("assistant", "A"),
    Message("user", "U2", masked=True),
    Message("assistant", "A2"),
]
ANSWERS = {
    "smollm2": "<|turn|>assistant\nA<|end|>\n<|turn|>assistant\nA2<|end|>\n",
    "smollm3": "<|turn|>assistant\n()A<|end|>\n<|turn|>assistant\n()A2<|end|>\n",
    "olmo2": "<|turn|>assistant\nA<|end|><|turn|>assistant\nA2<|end|>",
    "granite": "<|turn|>assistantA<|end|>\n<|turn|>assistantA2<|end|>\n",
}
in_every_family = pytest.mark.parametrize("family", BUILDERS)


def folder_of(path: Path, family: str) -> Path:
    byte_tokenizer(path / "tokenizer.json", SPECIAL)
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|begin|>", "eos_token": "<|end|>"}))
    (path / "chat_template.jinja").write_text(TEMPLATES[family])
    return path


@in_every_family
@pytest.mark.parametrize("start", [0, 1], ids=["system", "no_system"])
def test_dialogues_equal_transformers(family: str, start: int, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    folder, messages = folder_of(tmp_path, family), DIALOGUE[start:]
    ours = BUILDERS[family](str(folder))
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    for end in range(2, len(messages) + 1):
        rows = [{"role": m.role, "content": m.text_content} for m in messages[:end]]
        told = messages[end - 1].role == "user"  # and so the model is to go on
        expected = theirs.apply_chat_template(rows, add_generation_prompt=told)["input_ids"]
        assert ours.tokenize_messages(messages[:end], add_eos=not told)[0] == expected


@in_every_family
def test_only_the_answers_are_trained_on(family: str, tmp_path: Path) -> None:
    tokenizer = BUILDERS[family](str(folder_of(tmp_path, family) / "tokenizer.json"))
    ids, mask = tokenizer.tokenize_messages(DIALOGUE)
    trained = [token for token, masked in zip(ids, mask) if not masked]
    assert tokenizer.decode(trained, skip_special_tokens=False) == ANSWERS[family]


def test_a_long_dialogue_is_cut_on_the_side_that_is_named(tmp_path: Path) -> None:
    folder = str(folder_of(tmp_path, "smollm2"))
    whole = BUILDERS["smollm2"](folder)({"messages": DIALOGUE})["tokens"]
    left = BUILDERS["smollm2"](folder, 9, truncation_type="left")({"messages": DIALOGUE})["tokens"]
    assert len(whole) > 9 and left[:-1] == whole[-9:-1]


def test_what_a_template_asks_for_besides_messages(tmp_path: Path) -> None:
    rows = [{"role": "user", "content": "U"}]
    thinking = BUILDERS["smollm3"](str(folder_of(tmp_path, "smollm3")), chat_template_kwargs={"thinks": True})
    assert thinking.render_template(rows, add_eos=False).endswith("<|turn|>assistant\n")
    dated = BUILDERS["granite"](str(folder_of(tmp_path, "granite")), today="1999-12-31")
    assert dated.render_template(rows).startswith("<|turn|>system1999<|end|>")
