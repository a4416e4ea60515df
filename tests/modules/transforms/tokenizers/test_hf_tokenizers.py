"""``tokenizer.json`` and chat templates against transformers."""

import json
import pickle
from datetime import datetime
from pathlib import Path

import pytest
from cut_dialogues import cut_at_right
from tokenizer_files import CHAT_TOKENS, chat_folder
from tokenizers import Tokenizer, processors

from torchtune.data import Message
from torchtune.errors import ConfigError, DataError
from torchtune.modules.transforms.tokenizers import (
    HuggingFaceBaseTokenizer,
    HuggingFaceModelTokenizer,
    parse_hf_tokenizer_json,
)

BOS, EOS, IM_START, IM_END = 256, 257, 258, 259
CHATML = (
    "{% for message in messages %}\n"
    "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set ns.system = message['content'] + '\\n\\n' %}{% continue %}{% endif %}"
    "{% if (message['role'] == 'user') and loop.last and false %}{% break %}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {{ ns.system + message['content'] }}[/INST]{% set ns.system = '' %}"
    "{% elif message['role'] == 'assistant' %}"
    "{% generation %} {{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('no role ' + message['role']) }}{% endif %}{% endfor %}"
    "{% if ns.system %}{{ raise_exception('a system message alone') }}{% endif %}"
)
TOOLS = (
    "{{ strftime_now('%Y') }} {% if tools is defined and tools %}T{% endif %}{{ messages[0] | tojson }}"
    "{% for m in messages %}<|im_start|>{{ m['content'] | trim }}<|im_end|>{% endfor %}"
)


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


def _folder(path: Path, template: str | None = CHATML, **config) -> Path:
    return chat_folder(path, template, **config)


def _model(path: Path, **kwargs) -> HuggingFaceModelTokenizer:
    return HuggingFaceModelTokenizer(str(path / "tokenizer.json"), **kwargs)


def _text(tokenizer: HuggingFaceModelTokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("template", [CHATML, MISTRAL, TOOLS], ids=["chatml", "mistral", "tools"])
def test_dialogues_equal_transformers(template, tmp_path):
    from transformers import PreTrainedTokenizerFast

    ours = _model(_folder(tmp_path, template))
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), bos_token="<s>", eos_token="</s>", chat_template=template
    )
    for messages in (_dialogue(), _dialogue()[1:], _dialogue()[:2], _dialogue()[1:2]):
        expected = theirs.apply_chat_template(_rows(messages), tokenize=False)
        assert ours.render_template(_rows(messages)) == expected
        ids, mask = ours.tokenize_messages(messages)
        assert ids == theirs(expected, add_special_tokens=False)["input_ids"] and len(mask) == len(ids)
        if messages[-1].role == "user":
            prompt = theirs.apply_chat_template(_rows(messages), tokenize=False, add_generation_prompt=True)
            assert ours.render_template(_rows(messages), add_eos=False) == prompt
    assert ours.decode(ours.encode("Ü 🙂 <|im_end|>")) == "Ü 🙂 "


@pytest.mark.parametrize(
    ("template", "trained", "added"),
    [
        (CHATML, ["<|im_start|>assistant\nA<|im_end|>\n", "<|im_start|>assistant\nA2<|im_end|>\n"], 0),
        (MISTRAL, [" A</s>", " A2</s>"], 1),
    ],
    ids=["chatml", "mistral"],
)
def test_only_the_answers_are_trained_on(template, trained, added, tmp_path):
    tokenizer = _model(_folder(tmp_path, template))
    ids, mask = tokenizer.tokenize_messages(_dialogue())
    assert _text(tokenizer, [i for i, m in zip(ids, mask) if not m]) == "".join(trained)
    messages = _dialogue()
    messages[2].masked = True
    ids, mask = tokenizer.tokenize_messages(messages)
    assert _text(tokenizer, [i for i, m in zip(ids, mask) if not m]) == trained[1]
    everything = [Message("user", "x"), Message("assistant", "y")]
    assert tokenizer.tokenize_messages(everything)[1].count(True) == added  # what begins the text is no message


def test_an_open_end_for_the_model_to_go_on(tmp_path):
    tokenizer = _model(_folder(tmp_path))
    begun = [Message("user", "x", masked=True), Message("assistant", "beg")]
    expected = "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\nbeg"
    sample = tokenizer({"messages": begun, "row": 1}, inference=True)
    assert sample["row"] == 1 and _text(tokenizer, sample["tokens"]) == expected
    assert _text(tokenizer, tokenizer.tokenize_messages(begun, add_eos=False)[0]) == expected
    ids, mask = tokenizer.tokenize_messages(begun[:1], add_end_tokens=False)
    assert _text(tokenizer, ids) == expected.removesuffix("beg") and all(mask)


@pytest.mark.parametrize("limit", [1, 5, 20, 48])
def test_truncation(limit, tmp_path):
    tokenizer = _model(_folder(tmp_path))
    ids, mask = tokenizer.tokenize_messages(_dialogue())
    assert tokenizer.tokenize_messages(_dialogue(), max_seq_len=limit) == cut_at_right(ids, mask, limit, EOS)
    left = _model(tmp_path, truncation_type="left", max_seq_len=limit)
    assert left.tokenize_messages(_dialogue()) == (ids[-limit:], mask[-limit:])
    assert left.tokenize_messages(_dialogue(), max_seq_len=999) == (ids, mask)


def test_tools_reach_the_template(tmp_path):
    template = "{% for t in tools or [] %}{{ t.name }};{% endfor %}" + CHATML
    tokenizer = _model(_folder(tmp_path, template))
    sample = tokenizer({"messages": _dialogue(), "tools": [{"name": "f"}], "row": 1})
    assert _text(tokenizer, sample["tokens"]).startswith("f;<|im_start|>system") and sample.keys() == {
        "tokens", "mask", "row"
    }  # fmt: skip
    assert not _text(tokenizer, tokenizer({"messages": _dialogue()})["tokens"]).startswith("f;")


def test_the_day_can_be_fixed(tmp_path):
    _folder(tmp_path, "{{ strftime_now('%d %b %Y') }}{{ flavour }}")
    tokenizer = _model(tmp_path, today="2024-02-29", chat_template_kwargs={"flavour": "sour"})
    travelled = pickle.loads(pickle.dumps(tokenizer))
    assert tokenizer.render_template([]) == travelled.render_template([]) == "29 Feb 2024sour"
    assert _model(tmp_path).render_template([]) == datetime.now().strftime("%d %b %Y")
    with pytest.raises(ConfigError, match="today is '29.2.2024'; expected a date such as 2025-01-31"):
        _model(tmp_path, today="29.2.2024")


def test_an_answer_ends_where_the_template_ends_it(tmp_path):
    """A base model's files name the end of a text only; its template closes turns with another token."""
    _folder(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 257, "top_p": 0.5}')
    tokenizer = _model(tmp_path)
    assert tokenizer.stop_tokens == [EOS, IM_END] and tokenizer.eos_id == EOS
    assert tokenizer.files.keys() == {"generation_config.json"}
    assert json.loads(tokenizer.files["generation_config.json"]) == {"eos_token_id": [EOS, IM_END], "top_p": 0.5}
    own = _model(_folder(tmp_path, eos_token="<|im_end|>"))
    assert own.stop_tokens == [IM_END, EOS] and own.files == {}
    brought = _model(tmp_path, chat_template=MISTRAL)
    assert brought.files == {"chat_template.jinja": MISTRAL} and brought.chat_template == MISTRAL


def test_tokens_that_are_no_text(tmp_path):
    """Gemma 3's tokenizer has one more than the text model has rows."""
    tokenizer = _model(_folder(tmp_path, image_token="[/INST]"))
    assert (tokenizer.vocab_size, tokenizer.text_vocab_size) == (262, 261)
    with pytest.raises(DataError, match=r"'\[/INST\]', which stands for what is no text"):
        tokenizer.tokenize_messages([Message("user", "[/INST]")])
    assert _model(_folder(tmp_path, image_token="[INST]")).text_vocab_size == 262


def test_halves_of_surrogate_pairs(tmp_path):
    tokenizer = _model(_folder(tmp_path))
    messages = [Message("user", "x\ud83d\ude42y\ud83d", masked=True), Message("assistant", "A")]
    ids, mask = tokenizer.tokenize_messages(messages)
    assert "x🙂y\ufffd" in _text(tokenizer, ids)
    assert _text(tokenizer, [i for i, m in zip(ids, mask) if not m]) == "<|im_start|>assistant\nA<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('system first') }}", "roles.*system first"),
        ("{{ ''.__class__.__mro__ }}", "fails in line 1.*'__class__' of 'str' object is unsafe"),
        ("{{ messages.append(1) }}", "fails in line 1.*'append' of 'list' object is unsafe"),
        ("{% for x in %}", "does not parse: line 1"),
    ],
)
def test_templates_are_kept_in_the_sandbox(template, said, tmp_path):
    with pytest.raises(DataError, match=said):
        _model(_folder(tmp_path, template)).tokenize_messages(_dialogue())


def test_where_the_template_is_found(tmp_path):
    def rendered() -> str:
        return _model(tmp_path).render_template([{"role": "user", "content": "x"}])

    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "listed"}]
    _folder(tmp_path, None, chat_template=named)
    assert rendered() == "listed"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert rendered() == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja {{ bos_token }}{{ eos_token }}")
    assert rendered() == "jinja <s></s>"


@pytest.mark.parametrize("given", ["source", "file", "file without marks", "folder", "folder with a config"])
def test_another_template(given, tmp_path):
    """By its source, by a file, or by the folder of a model; so it is with auto_tokenizer, which hands it on."""
    _folder(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "my.jinja").write_text(MISTRAL)
    if given.startswith("folder"):
        _folder(other, MISTRAL) if "config" in given else (other / "chat_template.jinja").write_text(MISTRAL)
    if given == "file without marks":
        (other / "my.jinja").write_text("Hi")
    path = MISTRAL if given == "source" else str(other / ("my.jinja" if given.startswith("file") else ""))
    tokenizer = _model(tmp_path, chat_template=path)
    expected = "Hi" if given == "file without marks" else MISTRAL
    assert tokenizer.chat_template == expected and tokenizer.files["chat_template.jinja"] == expected


@pytest.mark.parametrize("given", ["my.jinja", "chatml", "", "Hello. " * 99, "{folder}", "{folder}/tokenizer.json"])
def test_what_is_no_template(given, tmp_path):
    other = _folder(tmp_path, None)
    with pytest.raises(ConfigError, match="neither a Jinja file nor a folder that has a chat template; nor is it"):
        _model(_folder(tmp_path, None), chat_template=given.replace("{folder}", str(other)))


def test_a_template_in_another_encoding(tmp_path):
    (tmp_path / "my.jinja").write_bytes("{{ 'ü' }}".encode("latin-1"))
    with pytest.raises(DataError, match="my.jinja: expected a chat template in UTF-8"):
        _model(_folder(tmp_path), chat_template=str(tmp_path / "my.jinja"))


def test_no_template(tmp_path):
    with pytest.raises(DataError, match="no chat template"):
        _model(_folder(tmp_path, None))


def test_travels_to_a_worker(tmp_path):
    tokenizer = _model(_folder(tmp_path))
    assert pickle.loads(pickle.dumps(tokenizer)).tokenize_messages(_dialogue()) == tokenizer.tokenize_messages(
        _dialogue()
    )


@pytest.mark.parametrize("adds_bos", [False, True])
def test_base_tokenizer_adds_its_ends_once(adds_bos, tmp_path):
    path = _folder(tmp_path) / "tokenizer.json"
    if adds_bos:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
        tokenizer.save(str(path))
    words = HuggingFaceBaseTokenizer(str(path), tokenizer_config_json_path=str(tmp_path / "tokenizer_config.json"))
    hi = words.encode("Hi", add_bos=False, add_eos=False)
    assert len(hi) == 2 and words.encode("Hi") == [BOS, *hi, EOS] and words.encode("") == [BOS, EOS]
    assert words.encode("<s>", add_bos=False, add_eos=False) == [BOS]
    assert words.decode(words.encode("Hi")) == "Hi" and words.vocab_size == 262


def test_base_tokenizer_reads_ids_from_generation_config(tmp_path):
    path = _folder(tmp_path) / "tokenizer.json"
    (tmp_path / "generation.json").write_text(json.dumps({"bos_token_id": 258, "eos_token_id": [259, 257]}))
    words = HuggingFaceBaseTokenizer(str(path), generation_config_path=str(tmp_path / "generation.json"))
    assert (words.bos_id, words.eos_id, words.stop_tokens) == (IM_START, IM_END, [IM_END, EOS])
    _folder(tmp_path, bos_token=None)
    beside = HuggingFaceBaseTokenizer(str(path))
    assert beside.bos_id is None and beside.encode("") == [EOS]


def test_base_tokenizer_faults(tmp_path):
    path = _folder(tmp_path, bos_token="<nope>") / "tokenizer.json"
    with pytest.raises(DataError, match="'<nope>'"):
        HuggingFaceBaseTokenizer(str(path))
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match="tokenizer_config_json_path"):
        HuggingFaceBaseTokenizer(str(path))
    path.write_text('{"model": {"type": "Unheard"}}')
    with pytest.raises(DataError, match="does not load"):
        HuggingFaceBaseTokenizer(str(path))
    with pytest.raises(DataError, match="added_tokens"):
        parse_hf_tokenizer_json(str(path))


def test_parse_special_tokens(tmp_path):
    assert parse_hf_tokenizer_json(_folder(tmp_path) / "tokenizer.json") == {
        t: 256 + i for i, t in enumerate(CHAT_TOKENS)
    }
