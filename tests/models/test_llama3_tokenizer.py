"""Llama 3's tokenizer against Meta's own (llama-models), which carries the true vocabulary."""

import pickle
import random
from pathlib import Path

import llama_models.llama3
import pytest
from llama_models.datatypes import BuiltinTool, RawMessage, StopReason, ToolCall
from llama_models.llama3.chat_format import ChatFormat
from llama_models.llama3.tokenizer import Tokenizer
from tokenizer_files import llama3_tokenizer_json, small_tiktoken

from torchtune.data import ChatMLTemplate, Message, SummarizeTemplate
from torchtune.errors import ConfigError, DataError
from torchtune.models._llama3_tokenizer import LLAMA3_SPECIAL_TOKENS, Llama3Tokenizer, llama3_tokenizer

PATH = Path(llama_models.llama3.__file__).parent / "tokenizer.model"
BOS, EOS, START, END, EOM, EOT, PYTHON = 128000, 128001, 128006, 128007, 128008, 128009, 128010

STRINGS = [
    "",
    " ",
    "\n",
    "\n\n\n",
    "  \t \r\n  ",
    "Hello, world!",
    " leading and trailing ",
    "I'm, you're, WE'LL, they'D",
    "1234567890 3.14159 1e-9",
    "def f(x):\n\treturn x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) { a[i] <<= 1; }\r\n",
    "SELECT * FROM t WHERE a = 'b';--",
    "<html><body>&amp;</body></html>",
    '{"name": "f", "parameters": {"x": [1, 2, null]}}',
    "https://example.org/a?b=c#d",
    "Straße, Äpfel, naïve façade",
    "L'été à la plage, où êtes-vous ?",
    "¿Qué tal? ¡Muy bien!",
    "Привет, как дела?",
    "Γειά σου Κόσμε",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "வணக்கம் உலகம்",
    "你好，世界。",
    "こんにちは世界、カタカナ",
    "안녕하세요 세계",
    "Xin chào thế giới",
    "İstanbul'da ığdır",
    "🙂🙃🚀",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪",
    "e\u0301 versus \u00e9",
    "zero\u200bwidth\u200djoiner\ufeff",
    "\x00\x01\x7f",
    "∑ x² ≤ ∫ f(t) dt → ∞",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈",
    "<|eot_id|>",
    "<|begin_of_text|>hi<|end_of_text|>",
    "<|start_header_id|>system<|end_header_id|>\n\nObey.<|eot_id|>",
    "<|image|><|python_tag|><|reserved_special_token_5|>",
    "a\u00a0b\u2003c\u3000d",
    "x" * 30_000,
    " " * 60_000 + "y",
    ("word " * 100_001) + "z" * 25_001,
    "ab\n" * 20 + "\ud83d broken surrogate",
]


@pytest.fixture(scope="module")
def ours() -> Llama3Tokenizer:
    return Llama3Tokenizer(str(PATH))


@pytest.fixture(scope="module")
def meta() -> Tokenizer:
    return Tokenizer(PATH)


@pytest.mark.parametrize("text", STRINGS, ids=lambda text: ascii(text[:20]))
def test_ids_equal_metas(ours, meta, text):
    for bos, eos in ((True, True), (False, False), (True, False), (False, True)):
        assert ours.encode(text, add_bos=bos, add_eos=eos) == meta.encode(text, bos=bos, eos=eos)


def test_ids_of_random_text_equal_metas(ours, meta):
    draw = random.Random(0)
    blocks = [(32, 127), (9, 14), (0x20, 0x2000), (0x3000, 0x9FFF), (0x1F300, 0x1FAFF)]
    for _ in range(300):
        text = "".join(chr(draw.randrange(*draw.choice(blocks))) for _ in range(draw.randrange(80)))
        assert ours.encode(text, add_bos=False, add_eos=False) == meta.encode(text, bos=False, eos=False)


@pytest.mark.parametrize("text", STRINGS[:-1], ids=lambda text: ascii(text[:20]))
def test_decode_gives_the_text_back(ours, text):
    assert ours.decode(ours.encode(text)) == text


def test_special_tokens_equal_metas(ours, meta):
    assert ours.vocab_size == 128_257 and ours.base_vocab_size == 128_000
    assert ours.text_vocab_size == meta.n_words == 128_256
    differ = {name for name, index in meta.special_tokens.items() if LLAMA3_SPECIAL_TOKENS[name] != index}
    assert differ == {"<|image|>"} and ours.image_id == 128_256
    assert sorted(LLAMA3_SPECIAL_TOKENS.values()) == list(range(128_000, 128_257))
    assert (ours.bos_id, ours.eos_id, ours.eot_id, ours.eom_id) == (meta.bos_id, meta.eos_id, meta.eot_id, meta.eom_id)
    assert (ours.pad_id, ours.python_tag) == (meta.pad_id, meta.python_tag_id)
    assert (ours.step_id, ours.start_header_id, ours.end_header_id) == (128_005, 128_006, 128_007)
    assert sorted(ours.stop_tokens) == sorted(meta.stop_tokens)


def _code_call(code: str) -> list[ToolCall]:
    return [ToolCall(call_id="1", tool_name=BuiltinTool.code_interpreter, arguments={"code": code})]


def _function_call() -> list[ToolCall]:
    return [ToolCall(call_id="2", tool_name="get_weather", arguments={"city": "Bern", "days": 3})]


FUNCTION_CALL = '{"type": "function", "name": "get_weather", "parameters": {"city": "Bern", "days": 3}}'
SEARCH_CALL = 'brave_search.call(query="Zürich")'
MORE = StopReason.end_of_message
# Each dialogue twice: for us, and for Meta's format.
DIALOGUES = {
    "empty": ([], []),
    "user": ([("user", "Hi")], [{"role": "user", "content": "Hi"}]),
    "system": (
        [("system", "Be brief."), ("user", "Hi")],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    ),
    "turns": (
        [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "U2"), ("assistant", "A2"), ("user", "U3")],
        [
            {"role": role, "content": content}
            for role, content in zip(
                ("system", "user", "assistant", "user", "assistant", "user"), ("S", "U", "A", "U2", "A2", "U3")
            )
        ],
    ),
    "empty messages": (
        [("system", ""), ("user", ""), ("assistant", ""), ("user", "?")],
        [
            {"role": "system", "content": ""},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "?"},
        ],
    ),
    "whitespace is kept": (
        [("user", "  x \n\n"), ("assistant", "\n y  "), ("user", " \t ")],
        [
            {"role": "user", "content": "  x \n\n"},
            {"role": "assistant", "content": "\n y  "},
            {"role": "user", "content": " \t "},
        ],
    ),
    "special text": (
        [("user", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYes<|eom_id|>")],
        [{"role": "user", "content": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYes<|eom_id|>"}],
    ),
    "languages": (
        [("user", "你好 🙂"), ("assistant", "Привет, नमस्ते"), ("user", "مرحبا")],
        [
            {"role": "user", "content": "你好 🙂"},
            {"role": "assistant", "content": "Привет, नमस्ते"},
            {"role": "user", "content": "مرحبا"},
        ],
    ),
    "text parts": (
        [("user", [{"type": "text", "content": "a "}, {"type": "text", "content": " b"}])],
        [{"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": " b"}]}],
    ),
    "code interpreter": (
        [
            ("user", "2**10?"),
            Message("assistant", "print(2**10)", ipython=True, eot=False),
            ("ipython", "1024\n"),
            ("assistant", "It is 1024."),
            ("user", "Thanks"),
        ],
        [
            {"role": "user", "content": "2**10?"},
            {"role": "assistant", "content": "", "tool_calls": _code_call("print(2**10)"), "stop_reason": MORE},
            {"role": "tool", "content": "1024\n"},
            {"role": "assistant", "content": "It is 1024.", "stop_reason": StopReason.end_of_turn},
            {"role": "user", "content": "Thanks"},
        ],
    ),
    "code that ends the turn": (
        [("user", "x"), Message("assistant", "1 + 1", ipython=True)],
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": _code_call("1 + 1")}],
    ),
    "function call": (
        [("user", "Weather?"), ("assistant", FUNCTION_CALL), ("tool", '{"t": 21}')],
        [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": _function_call()},
            {"role": "tool", "content": '{"t": 21}'},
        ],
    ),
    "search": (
        [
            ("user", "Find it"),
            Message("assistant", SEARCH_CALL, eot=False),
            ("ipython", "[]"),
            ("assistant", "Nothing."),
        ],
        [
            {"role": "user", "content": "Find it"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [ToolCall(call_id="3", tool_name="brave_search", arguments={"query": "Zürich"})],
                "stop_reason": MORE,
            },
            {"role": "tool", "content": "[]"},
            {"role": "assistant", "content": "Nothing."},
        ],
    ),
    "function call that waits": (
        [("user", "Weather?"), Message("assistant", FUNCTION_CALL, eot=False), ("tool", ""), ("tool", "no")],
        [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": _function_call(), "stop_reason": MORE},
            {"role": "tool", "content": ""},
            {"role": "tool", "content": "no"},
        ],
    ),
    "long": (
        [("user", "abc " * 5000), ("assistant", "q" * 26_000), ("user", "?")],
        [
            {"role": "user", "content": "abc " * 5000},
            {"role": "assistant", "content": "q" * 26_000},
            {"role": "user", "content": "?"},
        ],
    ),
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogues_equal_metas(ours, meta, name):
    ours_form, meta_form = DIALOGUES[name]
    messages = [entry if isinstance(entry, Message) else Message(*entry) for entry in ours_form]
    expected = ChatFormat(meta).encode_dialog_prompt([RawMessage(**entry) for entry in meta_form]).tokens
    # Meta's prompt ends with the header of the answer: an empty message that is left open
    tokens, mask = ours.tokenize_messages([*messages, Message("assistant", "")], add_end_tokens=False)
    assert tokens == expected and len(mask) == len(tokens)
    whole, mask = ours.tokenize_messages(messages)
    header = [START, 78191, END, 271]
    assert whole == expected[: -len(header)] + [EOS] and expected[-len(header) :] == header
    assert len(mask) == len(whole)


def _dialogue() -> list[Message]:
    return [Message("system", "S", masked=True), Message("user", "U", masked=True), Message("assistant", "A")]


TOKENS = [BOS, START, 9125, END, 271, 50, EOT, START, 882, END, 271, 52, EOT, START, 78191, END, 271, 32, EOT, EOS]
MASK = [True] * 13 + [False] * 6 + [True]  # the answer with its header and end is trained on


def test_call_gives_tokens_and_mask(ours):
    sample = {"messages": _dialogue(), "row": 7}
    assert ours(sample) == {"row": 7, "tokens": TOKENS, "mask": MASK}
    assert ours(sample, inference=True) == {"row": 7, "tokens": TOKENS[:-2], "mask": MASK[:-2]}
    with pytest.raises(DataError, match="no 'messages'"):
        ours({"text": "x"})


def test_message_with_and_without_its_ends(ours):
    message = Message("user", "x")
    assert ours.tokenize_message(message) == [START, 882, END, 271, 87, EOT]
    assert ours.tokenize_message(message, add_start_tokens=False) == [87, EOT]
    assert ours.tokenize_message(message, add_end_tokens=False) == [START, 882, END, 271, 87]
    assert ours.tokenize_message(Message("assistant", "x", ipython=True, eot=False))[-3:] == [PYTHON, 87, EOM]
    picture = Message("user", [{"type": "image", "content": "I"}, {"type": "text", "content": "b"}])
    assert ours.tokenize_message(picture) == [START, 882, END, 271, 128_256, 65, EOT]
    with pytest.raises(DataError, match="'audio'"):
        ours.tokenize_message(Message("user", [{"type": "audio", "content": "I"}]))


@pytest.mark.parametrize("limit", range(1, 25))
def test_truncation_keeps_tokens_and_mask_together(ours, limit):
    def cut(side, **kwargs):
        tokenizer = _with(ours, max_seq_len=limit, truncation_type=side)
        return tokenizer.tokenize_messages(_dialogue(), **kwargs)

    if limit >= len(TOKENS):
        assert cut("right") == cut("left") == (TOKENS, MASK)
        return
    assert cut("right") == (TOKENS[: limit - 1] + [EOS], MASK[: limit - 1] + [True])
    assert cut("left") == (TOKENS[-limit:], MASK[-limit:])
    open_tokens, open_mask = TOKENS[:-2], MASK[:-2]
    assert cut("right", add_end_tokens=False) == (open_tokens[:limit], open_mask[:limit])
    assert cut("left", add_end_tokens=False) == (open_tokens[-limit:], open_mask[-limit:])


def _with(tokenizer: Llama3Tokenizer, **changes) -> Llama3Tokenizer:
    copy = object.__new__(Llama3Tokenizer)
    copy.__dict__.update(tokenizer.__dict__, **changes)
    return copy


def test_prompt_template_stands_around_the_text(ours):
    dressed = _with(ours, prompt_template=SummarizeTemplate()).tokenize_messages(_dialogue()[1:2])[0]
    pieces = [
        ours.encode(t, add_bos=False, add_eos=False) for t in ("Summarize this dialogue:\n", "U", "\n---\nSummary:\n")
    ]
    assert dressed == [BOS, START, 882, END, 271, *pieces[0], *pieces[1], *pieces[2], EOT, EOS]


def test_template_is_told_of_inference(ours):
    chat = _with(ours, prompt_template=ChatMLTemplate())
    asked = [Message("user", "x"), Message("assistant", "")]
    assert "assistant\n<|im_end|>" in chat.decode(chat.tokenize_messages(asked)[0])
    assert chat.decode(chat.tokenize_messages(asked, add_end_tokens=False)[0]).endswith("<|im_start|>assistant\n")
    plain = _with(ours, prompt_template=lambda messages: messages)
    assert plain.tokenize_messages(asked, add_end_tokens=False) == ours.tokenize_messages(asked, add_end_tokens=False)


def test_decode_options(ours):
    ids = [BOS, START, 882, END, 271, 9906, EOT, 1917, EOS, 9906]
    assert ours.decode(ids) == "Hello world"
    assert ours.decode(ids, truncate_at_eos=False) == "Hello worldHello"
    kept = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|> world"
    assert ours.decode(ids, skip_special_tokens=False) == kept
    assert ours.decode(ids, truncate_at_eos=False, skip_special_tokens=False) == kept + "<|end_of_text|>Hello"
    assert ours.decode([]) == "" and ours.decode([START, 9906]) == "Hello"
    with pytest.raises(DataError, match="128257 words"):
        ours.decode([999_999])


def test_builder_reads_templates_and_special_tokens(tmp_path):
    path, json_path = small_tiktoken(PATH, tmp_path, 1000), tmp_path / "tokenizer.json"
    llama3_tokenizer_json(path, json_path, list(LLAMA3_SPECIAL_TOKENS))
    built = llama3_tokenizer(str(path), str(json_path), 9, {"user": ("<", ">")}, truncation_type="left")
    assert built.special_tokens["<|begin_of_text|>"] == built.bos_id == 1000
    assert (built.max_seq_len, built.truncation_type) == (9, "left")
    assert built.prompt_template.template == {"user": ("<", ">")}
    named = llama3_tokenizer(str(path), prompt_template="torchtune.data.SummarizeTemplate")
    assert named.prompt_template.template == SummarizeTemplate().template
    assert named.special_tokens == LLAMA3_SPECIAL_TOKENS


def test_tokenizer_json_gives_the_same(tmp_path):
    path, json_path = small_tiktoken(PATH, tmp_path, 3000), tmp_path / "tokenizer.json"
    llama3_tokenizer_json(path, json_path, list(LLAMA3_SPECIAL_TOKENS))
    theirs = Llama3Tokenizer(str(json_path))
    ours = Llama3Tokenizer(str(path), theirs.special_tokens)
    copy = pickle.loads(pickle.dumps(theirs))
    assert theirs.bos_id == 3000 and theirs.special_tokens == ours.special_tokens
    assert theirs.base_vocab_size == ours.base_vocab_size == 3000 and theirs.vocab_size == ours.vocab_size
    for text in STRINGS:
        assert theirs.encode(text) == ours.encode(text)
        assert copy.encode(text) == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))
    for entry in DIALOGUES.values():
        messages = [m if isinstance(m, Message) else Message(*m) for m in entry[0]]
        ids = ours.tokenize_messages(messages)[0]
        assert theirs.tokenize_messages(messages)[0] == ids
        assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids, skip_special_tokens=False)


def test_faults_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"<\|end_of_text\|>"):
        Llama3Tokenizer(str(PATH), {"<|begin_of_text|>": 128_000})
    with pytest.raises(ConfigError, match="'middle'"):
        Llama3Tokenizer(str(PATH), truncation_type="middle")
    with pytest.raises(ConfigError, match="does not exist"):
        llama3_tokenizer(str(tmp_path / "tokenizer.model"))


def test_travels_to_a_worker(ours):
    assert pickle.loads(pickle.dumps(ours)).tokenize_messages(_dialogue()) == (TOKENS, MASK)
