"""Llama 2's tokenizer on a real sentencepiece file of 32,000 words (Mistral's first, from mistral-common).

The ids of dialogues are those that torchtune 0.6.1 gives, except where it writes the system message into every later
turn, leaves earlier turns open, or puts one message's text into another.
"""

from pathlib import Path

import mistral_common
import pytest
from sentencepiece import SentencePieceProcessor
from tokenizer_files import llama2_tokenizer_json

from torchtune.data import Message
from torchtune.errors import ConfigError, DataError
from torchtune.models._llama2_tokenizer import Llama2ChatTemplate, Llama2Tokenizer, llama2_tokenizer

PATH = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
BOS, EOS = 1, 2
INST, INST_END = [733, 16289, 28793], [733, 28748, 16289, 28793]
SYS = [2087, 18741, 4060, 13, 318, 28705, 13, 28789, 700, 18741, 4060, 13, 13]  # <<SYS>>\nS\n<</SYS>>\n\n
STRINGS = [
    "",
    " ",
    "Hello world",
    "  two spaces",
    "\n\ttabs\r\n",
    "日本語, Привет, नमस्ते, مرحبا",
    "🙂👩‍👩‍👧",
    "<s> </s> <unk> [INST]",
    "def f(x):\n    return x",
    "a\u00a0b",
    "y" * 30_000,
]


@pytest.fixture(scope="module")
def tokenizer() -> Llama2Tokenizer:
    return Llama2Tokenizer(str(PATH))


@pytest.fixture(scope="module")
def from_json(tmp_path_factory) -> Llama2Tokenizer:
    path = tmp_path_factory.mktemp("llama2") / "tokenizer.json"
    llama2_tokenizer_json(PATH, path)
    return Llama2Tokenizer(str(path))


def _dialogue() -> list[Message]:
    return [
        Message("system", "S", masked=True),
        Message("user", "U", masked=True),
        Message("assistant", "A"),
        Message("user", "U2", masked=True),
        Message("assistant", "A2"),
    ]


FIRST_TURN = [BOS, *INST, *SYS, 500, 28705, *INST_END, 330]
SECOND_TURN = [BOS, *INST, 500, 28750, 28705, *INST_END, 330, 28750]
TOKENS = [*FIRST_TURN, EOS, *SECOND_TURN, EOS]
MASK = [True] * 23 + [False] * 2 + [True] * 11 + [False] * 3


@pytest.mark.parametrize("text", STRINGS, ids=lambda text: ascii(text[:20]))
def test_ids_are_sentencepieces_and_decode_back(tokenizer, from_json, text):
    expected = SentencePieceProcessor(str(PATH)).encode(text)
    for words in (tokenizer, from_json):
        assert words.encode(text) == [BOS, *expected, EOS]
        assert words.encode(text, add_bos=False, add_eos=False) == expected
        assert words.decode(words.encode(text)) == text


def test_a_continuation_gets_no_space(tokenizer, from_json):
    for words in (tokenizer, from_json):
        assert words.encode("Hello world", add_bos=False, trim_leading_whitespace=True) == [16230, 1526, EOS]
        assert words.encode(" Hello", trim_leading_whitespace=True) == [BOS, 22557, EOS]
        assert words.encode("", add_bos=False, add_eos=False, trim_leading_whitespace=True) == []


def test_properties(tokenizer, from_json):
    for words in (tokenizer, from_json):
        assert (words.vocab_size, words.bos_id, words.eos_id, words.pad_id) == (32_000, 1, 2, 0)
        assert words.stop_tokens == [2] and words.max_seq_len is None


def test_dialogue(tokenizer, from_json):
    for words in (tokenizer, from_json):
        assert words.tokenize_messages(_dialogue()) == (TOKENS, MASK)
        assert words({"messages": _dialogue(), "row": 1}) == {"row": 1, "tokens": TOKENS, "mask": MASK}


def test_open_end_for_the_model_to_go_on(tokenizer):
    assert tokenizer({"messages": _dialogue()}, inference=True) == {"tokens": TOKENS[:-1], "mask": MASK[:-1]}
    asked = [Message("user", "x"), Message("assistant", "")]
    prompt = [BOS, *INST, 1318, 28705, *INST_END]
    assert tokenizer.tokenize_messages(asked, add_end_tokens=False) == (prompt, [False] * len(prompt))
    assert tokenizer.tokenize_messages(asked[:1])[0] == prompt


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            [("user", " x \n"), ("assistant", " y ")],
            [BOS, *INST, 28705, 1318, 28705, 13, 28705, *INST_END, 28705, 337, 2],
        ),
        (
            [("user", "[INST] </s>"), ("assistant", "<s> y")],
            [BOS, *INST, *INST, 1867, 28713, 28767, 28705, *INST_END, 523, 28713, 28767, 337, EOS],
        ),
        ([("user", "a "), ("assistant", "b")], [BOS, *INST, 264, 28705, *INST_END, 287, EOS]),
        ([("user", ""), ("assistant", "y")], [BOS, *INST, 28705, *INST_END, 337, EOS]),
        ([], []),
    ],
)
def test_spaces_and_marks_in_text(tokenizer, messages, expected):
    tokens, mask = tokenizer.tokenize_messages([Message(*m) for m in messages])
    assert tokens == expected and mask == [False] * len(expected)


def test_tool_result_opens_a_turn(tokenizer):
    messages = [Message("user", "x"), Message("assistant", "t", ipython=True), Message("ipython", "r")]
    expected = [BOS, *INST, 1318, 28705, *INST_END, 261, EOS, BOS, 408, 28724, EOS]
    assert tokenizer.tokenize_messages([*messages, Message("assistant", "y")])[0] == expected


def test_without_template():
    plain = Llama2Tokenizer(str(PATH), prompt_template=None)
    assert plain.tokenize_messages(_dialogue())[0] == [1, 318, 28779, 28741, 2, 1, 500, 28750, 28741, 28750, 2]
    assert plain.tokenize_messages(_dialogue(), add_start_tokens=False)[0] == [
        318,
        28779,
        28741,
        2,
        500,
        28750,
        28741,
        28750,
        2,
    ]


@pytest.mark.parametrize(
    ("limit", "tokens", "mask"),
    [
        (2, [1, 2], [1, 1]),
        (4, [1, 318, 28779, 2], [1, 1, 1, 1]),
        (5, [1, 318, 28779, 28741, 2], [1, 1, 1, 0, 0]),
        (6, [1, 318, 28779, 28741, 2, 2], [1, 1, 1, 0, 0, 1]),
        (8, [1, 318, 28779, 28741, 2, 1, 500, 2], [1, 1, 1, 0, 0, 1, 1, 1]),
        (10, [1, 318, 28779, 28741, 2, 1, 500, 28750, 28741, 2], [1, 1, 1, 0, 0, 1, 1, 1, 0, 1]),
        (11, [1, 318, 28779, 28741, 2, 1, 500, 28750, 28741, 28750, 2], [1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0]),
        (12, [1, 318, 28779, 28741, 2, 1, 500, 28750, 28741, 28750, 2], [1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0]),
    ],
)
def test_truncation(limit, tokens, mask):
    cut = Llama2Tokenizer(str(PATH), max_seq_len=limit, prompt_template=None)
    assert cut.tokenize_messages(_dialogue()) == (tokens, [bool(m) for m in mask])


@pytest.mark.parametrize(("limit", "end"), [(8, 500), (7, 500), (6, 2)])
def test_a_question_at_the_end_is_cut_only_where_it_is_too_long(limit, end):
    messages = [*_dialogue()[:3], Message("user", "U", masked=True)]
    tokens, mask = Llama2Tokenizer(str(PATH), limit, None).tokenize_messages(messages)
    assert tokens[-1] == end and mask[-1] and len(tokens) == min(limit, 7)


@pytest.mark.parametrize("limit", [1, 3, 7, 11, 20])
def test_truncation_from_the_left_and_of_an_open_end(limit):
    whole, mask = Llama2Tokenizer(str(PATH), prompt_template=None).tokenize_messages(_dialogue())
    left = Llama2Tokenizer(str(PATH), limit, None, truncation_type="left")
    assert left.tokenize_messages(_dialogue()) == (whole[-limit:], mask[-limit:])
    right = Llama2Tokenizer(str(PATH), limit, None)
    assert right.tokenize_messages(_dialogue(), add_end_tokens=False) == (whole[:-1][:limit], mask[:-1][:limit])


def _texts(messages: list[Message]) -> list[tuple[str, str, bool]]:
    return [(m.role, m.text_content, m.masked) for m in messages]


def test_template_merges_the_system_message_once():
    assert _texts(Llama2ChatTemplate()(_dialogue())) == [
        ("user", "[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] ", True),
        ("assistant", "A", False),
        ("user", "[INST] U2 [/INST] ", True),
        ("assistant", "A2", False),
    ]


def test_template_refuses_a_system_message_with_no_place():
    with pytest.raises(DataError, match="none follows"):
        Llama2ChatTemplate()([Message("system", "S"), Message("assistant", "A")])


def test_builder():
    built = llama2_tokenizer(str(PATH), 5, {"user": ["<", ">"]}, "left")
    assert (built.max_seq_len, built.truncation_type) == (5, "left")
    assert built.prompt_template.template == {"user": ("<", ">")}
    assert llama2_tokenizer(str(PATH), prompt_template=None).prompt_template is None
    named = llama2_tokenizer(str(PATH))
    assert named.tokenize_messages(_dialogue()) == (TOKENS, MASK)
    with pytest.raises(ConfigError, match="prompt_template is 3"):
        llama2_tokenizer(str(PATH), prompt_template=3)


def test_images_are_refused(tokenizer):
    with pytest.raises(DataError, match="'image'"):
        tokenizer.tokenize_messages([Message("user", [{"type": "image", "content": "I"}]), Message("assistant", "y")])
