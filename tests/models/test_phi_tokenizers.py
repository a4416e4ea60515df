"""Phi 3's tokenizer against transformers' on a real sentencepiece file of 32,000 words (Mistral's first), with the
model's own chat template (from trl); Phi 4's against tiktoken's cl100k_base on part of Llama 3's words.

That special tokens take up the white space after them, Phi 4's also that before, is told by ``tokenizer.json``; see
https://github.com/huggingface/transformers/issues/32136 and https://github.com/dotnet/machinelearning/issues/7337.
No package has Phi 4's template: the texts expected here are written by hand after its page,
https://huggingface.co/microsoft/phi-4.
"""

import importlib.util
import json
import pickle
import random
from pathlib import Path

import llama_models.llama3
import mistral_common
import pytest
import tiktoken
from cut_dialogues import cut_at_right
from tiktoken.load import load_tiktoken_bpe
from tiktoken_ext import openai_public
from tokenizer_files import llama2_tokenizer_json, llama3_tokenizer_json, small_tiktoken
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from torchtune.data import Message, SummarizeTemplate
from torchtune.errors import ConfigError, DataError
from torchtune.models.phi3 import Phi3MiniTokenizer, phi3_mini_tokenizer
from torchtune.models.phi4 import Phi4Tokenizer, phi4_tokenizer

SENTENCEPIECE = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
TIKTOKEN = Path(llama_models.llama3.__file__).parent / "tokenizer.model"
TEMPLATE = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates" / "phi3.jinja"
END, ASSISTANT, SYSTEM, USER, ENDOFTEXT = 32007, 32001, 32006, 32010, 32000
STRINGS = [
    "",
    " ",
    "Hello world",
    "  two spaces",
    "\n\ttabs\r\n",
    "I'm, you're, WE'LL, they'D 1234567890 3.14159",
    "日本語, Привет, नमस्ते, مرحبا",
    "🙂👩‍👩‍👧 e\u0301",
    "def f(x):\n    return x  # \n\n\n",
    "a\u00a0b\u3000c",
    "<|user|> <|im_end|> <|endoftext|> <s> </s>",
    "y" * 3000,
]
DIALOGUES = {
    "user": [("user", "Hi")],
    "answer": [("user", "Hi"), ("assistant", "Yo")],
    "system": [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo")],
    "turns": [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "U2"), ("assistant", "A2"), ("user", "U3")],
    "empty": [("system", ""), ("user", ""), ("assistant", ""), ("user", "?"), ("assistant", "")],
    "white space": [("user", "\n\n x \n"), ("assistant", "\u2003 y \n\n"), ("user", " \t "), ("assistant", "\n y")],
    "languages": [("user", "你好 🙂 e\u0301"), ("assistant", "Привет, नमस्ते"), ("user", "مرحبا")],
}


def in_our_form(dialogue: list[tuple[str, str]]) -> list[Message]:
    return [Message(role, text, masked=role != "assistant") for role, text in dialogue]


@pytest.fixture(scope="module")
def phi3_json(tmp_path_factory) -> Path:
    """The same words as ``tokenizer.json``, with Phi 3's added tokens."""
    path = tmp_path_factory.mktemp("phi3") / "tokenizer.json"
    llama2_tokenizer_json(SENTENCEPIECE, path)
    tokenizer = Tokenizer.from_file(str(path))
    for name in Phi3MiniTokenizer(str(SENTENCEPIECE)).special_tokens:
        takes_space = name != "<|endoftext|>"
        tokenizer.add_special_tokens([AddedToken(name, rstrip=takes_space, special=True, normalized=False)])
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def theirs(phi3_json) -> PreTrainedTokenizerFast:
    tokens = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_file=str(phi3_json), chat_template=TEMPLATE.read_text(), **tokens)


@pytest.fixture(scope="module", params=["sentencepiece", "json"])
def phi3(request, phi3_json) -> Phi3MiniTokenizer:
    return Phi3MiniTokenizer(str(SENTENCEPIECE if request.param == "sentencepiece" else phi3_json))


def test_phi_3_has_the_numbers_of_its_files(phi3):
    assert [phi3.special_tokens[f"<|{name}|>"] for name in ("end", "assistant", "system", "user")] == [
        END, ASSISTANT, SYSTEM, USER,
    ]  # fmt: skip
    assert (phi3.vocab_size, phi3.bos_id, phi3.eos_id, phi3.pad_id) == (32_011, 1, ENDOFTEXT, ENDOFTEXT)
    assert set(phi3.stop_tokens) == {ENDOFTEXT, END, ASSISTANT} and phi3.max_seq_len is None


@pytest.mark.parametrize("text", STRINGS, ids=lambda text: ascii(text[:20]))
def test_phi_3_ids_equal_transformers_and_decode_back(phi3, theirs, text):
    ids = theirs.encode(text.replace("<", "\u2039"), add_special_tokens=False)
    assert phi3.encode(text.replace("<", "\u2039")) == [1, *ids, ENDOFTEXT]
    ids = phi3.encode(text, add_bos=False, add_eos=False)
    assert not set(phi3.special_tokens.values()) & set(ids)
    assert phi3.decode(ids) == text and phi3.decode([USER, *ids, END]) == text
    assert phi3.decode([USER, *ids, END, END, ENDOFTEXT], skip_special_tokens=False) == (
        f"<|user|>{text}<|end|><|end|><|endoftext|>"
    )


@pytest.mark.parametrize("name", DIALOGUES)
def test_phi_3_dialogues_equal_the_chat_template(phi3, theirs, name):
    dialogue = DIALOGUES[name]
    rows = [{"role": role, "content": text} for role, text in dialogue]
    render = {"conversation": rows, "return_dict": False}
    messages = in_our_form(dialogue)
    assert phi3.tokenize_messages(messages, add_end_tokens=True)[0] == theirs.apply_chat_template(**render)
    prompt = theirs.apply_chat_template(**render, add_generation_prompt=True)
    assert phi3.tokenize_messages([*messages, Message("assistant", "")])[0] == prompt
    if dialogue[-1][0] == "user":
        assert phi3.tokenize_messages(messages)[0] == prompt


def test_phi_3_ids_of_random_dialogues_equal_the_chat_template(phi3, theirs):
    draw = random.Random(0)
    blocks = [(33, 127), (9, 14), (0x20, 0x2100), (0x3000, 0x9FFF), (0x1F300, 0x1FAFF)]
    for _ in range(100):
        text = "".join(chr(draw.randrange(*draw.choice(blocks))) for _ in range(draw.randrange(40)))
        rows = [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]
        expected = theirs.apply_chat_template(rows, return_dict=False)
        assert phi3.tokenize_messages([Message(**row) for row in rows], add_end_tokens=True)[0] == expected


@pytest.fixture(scope="module")
def phi4_files(tmp_path_factory) -> Path:
    """A tiktoken file of 3000 words, and these as ``vocab.json`` and ``merges.txt``, and as ``tokenizer.json``."""
    folder = tmp_path_factory.mktemp("phi4")
    small_tiktoken(TIKTOKEN, folder, 3000).rename(folder / "words")
    llama3_tokenizer_json(folder / "words", folder / "tokenizer.json", ["<|endoftext|>"])
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>"]
    llama3_tokenizer_json(folder / "words", folder / "tokenizer.json", marks)
    return folder


@pytest.fixture(scope="module", params=["vocab.json", "tokenizer.json"])
def phi4(request, phi4_files) -> Phi4Tokenizer:
    merges = str(phi4_files / "merges.txt") if request.param == "vocab.json" else None
    return Phi4Tokenizer(str(phi4_files / request.param), merges)


@pytest.fixture(scope="module")
def cl100k(phi4_files) -> tiktoken.Encoding:
    """OpenAI's way to split text, with these words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: load_tiktoken_bpe(str(phi4_files / "words")))
        facts = openai_public.cl100k_base()
    return tiktoken.Encoding(**facts | {"special_tokens": {}})


@pytest.mark.parametrize("text", STRINGS, ids=lambda text: ascii(text[:20]))
def test_phi_4_ids_equal_tiktokens_and_decode_back(phi4, cl100k, text):
    ids = cl100k.encode_ordinary(text)
    assert phi4.encode(text) == [phi4.bos_id, *ids, phi4.eos_id]
    assert phi4.encode(text, add_bos=False, add_eos=False) == ids
    assert phi4.decode(phi4.encode(text)) == text
    assert phi4.decode(phi4.encode(text), skip_special_tokens=False) == f"<|endoftext|>{text}<|im_end|>"


def test_phi_4_ids_of_random_text_equal_tiktokens(phi4, cl100k):
    draw = random.Random(0)
    blocks = [(32, 127), (9, 14), (0x20, 0x2000), (0x3000, 0x9FFF), (0x1F300, 0x1FAFF)]
    for _ in range(300):
        text = "".join(chr(draw.randrange(*draw.choice(blocks))) for _ in range(draw.randrange(80)))
        assert phi4.encode(text, add_bos=False, add_eos=False) == cl100k.encode_ordinary(text)


def test_phi_4_has_the_numbers_of_its_files(phi4_files):
    phi4 = Phi4Tokenizer(str(phi4_files / "vocab.json"), str(phi4_files / "merges.txt"))
    known = {
        "<|dummy_0|>": 100256, "<|endoftext|>": 100257, "<|fim_prefix|>": 100258, "<|fim_suffix|>": 100260,
        "<|dummy_3|>": 100263, "<|im_start|>": 100264, "<|im_end|>": 100265, "<|im_sep|>": 100266,
        "<|dummy_12|>": 100275, "<|endofprompt|>": 100276, "<|dummy_13|>": 100277, "<|dummy_87|>": 100351,
    }  # fmt: skip
    assert known.items() <= phi4.special_tokens.items() and len(phi4.special_tokens) == 96
    assert (phi4.vocab_size, phi4.bos_id, phi4.eos_id, phi4.pad_id) == (100_352, 100_257, 100_265, 100_349)
    assert phi4.stop_tokens == [100_265, 100_257]


@pytest.fixture(scope="module")
def with_marks(phi4_files) -> Tokenizer:
    """The tokenizers library, told that marks take up white space."""
    tokenizer = Tokenizer.from_file(str(phi4_files / "tokenizer.json"))
    names = tokenizer.get_added_tokens_decoder().values()
    tokenizer.add_special_tokens(
        [AddedToken(t.content, lstrip=True, rstrip=True, normalized=False, special=True) for t in names]
    )
    return tokenizer


@pytest.mark.parametrize("name", DIALOGUES)
def test_phi_4_dialogues_are_as_its_page_writes_them(phi4_files, with_marks, name):
    phi4, dialogue = Phi4Tokenizer(str(phi4_files / "tokenizer.json")), DIALOGUES[name]
    messages = in_our_form(dialogue)
    text = "".join(f"<|im_start|>{role}<|im_sep|>{content}<|im_end|>" for role, content in dialogue)
    tokens, mask = phi4.tokenize_messages(messages, add_end_tokens=True)
    assert tokens == with_marks.encode(text).ids and len(mask) == len(tokens)
    prompt = with_marks.encode(f"{text}<|im_start|>assistant<|im_sep|>").ids
    assert phi4.tokenize_messages([*messages, Message("assistant", "")])[0] == prompt
    if dialogue[-1][0] == "user":
        assert phi4.tokenize_messages(messages)[0] == prompt
    begun = phi4.tokenize_messages([*messages, Message("assistant", " So \n")])[0]
    assert begun == with_marks.encode(f"{text}<|im_start|>assistant<|im_sep|> So \n").ids


def test_phi_4_dialogues_are_the_same_from_both_kinds_of_files(phi4_files):
    def written(tokenizer: Phi4Tokenizer) -> str:
        tokens, _ = tokenizer.tokenize_messages(in_our_form(DIALOGUES["turns"]), add_end_tokens=True)
        return tokenizer.decode(tokens, skip_special_tokens=False)

    of_json = written(Phi4Tokenizer(str(phi4_files / "tokenizer.json")))
    assert of_json == written(Phi4Tokenizer(str(phi4_files / "vocab.json"), str(phi4_files / "merges.txt")))


@pytest.fixture(scope="module", params=["3", "4"])
def either(request, phi3_json, phi4_files) -> Phi3MiniTokenizer | Phi4Tokenizer:
    if request.param == "3":
        return Phi3MiniTokenizer(str(phi3_json))
    return Phi4Tokenizer(str(phi4_files / "vocab.json"), str(phi4_files / "merges.txt"))


@pytest.fixture
def form(either):
    """The text that a dialogue of ``either`` is."""

    def text(tokens: list[int]) -> str:
        shown = either.decode(tokens, skip_special_tokens=False)
        for role in ("user", "assistant", "system"):
            shown = shown.replace(f"<|im_start|>{role}<|im_sep|>", f"<|{role}|>")
        return shown.replace("<|im_end|>", "<|end|>")

    return text


TURNS = in_our_form([("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "U2"), ("assistant", "A2")])


def test_a_call_closes_the_dialogue_and_inference_leaves_it_open(either, form):
    closed, begun = either({"messages": TURNS, "row": 7}), either({"messages": TURNS}, inference=True)
    text = "<|system|>S<|end|><|user|>U<|end|><|assistant|>A<|end|><|user|>U2<|end|><|assistant|>A2"
    assert form(begun["tokens"]) == text and closed["row"] == 7
    after = "<|endoftext|>" if isinstance(either, Phi3MiniTokenizer) else ""
    assert form(closed["tokens"]) == f"{text}<|end|>{after}"
    for sample in (closed, begun):
        trained = [token for token, masked in zip(sample["tokens"], sample["mask"], strict=True) if not masked]
        rest = sample["tokens"][len(begun["tokens"]) :]
        answers = in_our_form([("assistant", "A"), ("assistant", "A2")])
        assert trained == either.tokenize_messages(answers)[0] + rest


def test_system_messages_may_be_left_out(either):
    without = either.tokenize_messages(TURNS[1:], add_end_tokens=True)
    assert either.tokenize_messages(TURNS, add_end_tokens=True, ignore_system_prompt=True) == without


def test_parts_of_a_text_are_one_text(either):
    parts = [{"type": "text", "content": text} for text in ("Hello wor", "ld ", "", "again")]
    whole = [Message("user", "Hello world again")]
    assert either.tokenize_messages([Message("user", parts)]) == either.tokenize_messages(whole)


@pytest.mark.parametrize("role", ["ipython", "tool"])
def test_other_roles_and_images_are_refused(either, role):
    with pytest.raises(DataError, match=f"system, user, assistant; a message has '{role}'"):
        either.tokenize_messages([*TURNS, Message(role, "21")])
    with pytest.raises(DataError, match="'image'"):
        either.tokenize_messages([Message("user", [{"type": "image", "content": "I"}])])


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_keeps_tokens_and_mask_together(either, side):
    tokens, mask = either.tokenize_messages(TURNS, add_end_tokens=True)
    begun, begun_mask = either.tokenize_messages(TURNS)
    cut = pickle.loads(pickle.dumps(either))
    cut.truncation_type = side
    for cut.max_seq_len in range(1, len(tokens) + 2):
        limit = cut.max_seq_len
        place = slice(0, limit) if side == "right" else slice(-limit, None)
        has_lost_its_end = side == "right" and limit < len(tokens)
        expected = cut_at_right(tokens, mask, limit, cut.eos_id) if has_lost_its_end else (tokens[place], mask[place])
        assert cut.tokenize_messages(TURNS, add_end_tokens=True) == expected
        assert cut.tokenize_messages(TURNS) == (begun[place], begun_mask[place])


def test_pickled_it_still_takes_marks_for_text(either):
    copy, text = pickle.loads(pickle.dumps(either)), "<|user|><|im_end|><|endoftext|>"
    assert copy.encode(text) == either.encode(text)
    assert not set(copy.encode(text, False, False)) & set(copy.special_tokens.values())


def test_builders(phi3_json, phi4_files, tmp_path):
    built = phi3_mini_tokenizer(str(SENTENCEPIECE), str(phi3_json), 5, "torchtune.data.SummarizeTemplate", "left")
    assert (built.max_seq_len, built.truncation_type, built.special_tokens["<|end|>"]) == (5, "left", END)
    files = (str(phi4_files / "vocab.json"), str(phi4_files / "merges.txt"))
    marks = tmp_path / "marks.json"
    names = ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>")
    marks.write_text(json.dumps({"added_tokens": [{"content": n, "id": 4000 + i} for i, n in enumerate(names)]}))
    built = phi4_tokenizer(*files, str(marks), 5, {"user": ["<", ">"]}, "left")
    assert (built.max_seq_len, built.truncation_type, built.eos_id, built.pad_id) == (5, "left", 4003, 4000)
    template = Phi4Tokenizer(*files, prompt_template=SummarizeTemplate())
    text = template.decode(template.tokenize_messages([Message("user", "U")])[0])
    assert text == "userSummarize this dialogue:\nU\n---\nSummary:assistant"  # a mark takes up the last line break


def test_wrong_arguments_are_refused(phi4_files, tmp_path):
    with pytest.raises(ConfigError, match="needs vocab_path.*merges_path.*tokenizer.json"):
        phi4_tokenizer()
    with pytest.raises(DataError, match=r"vocab\.json: expected a tokenizer\.json"):
        phi4_tokenizer(str(phi4_files / "vocab.json"))
    with pytest.raises(ConfigError, match=r"lack <\|end\|>, <\|user\|>, which"):
        Phi3MiniTokenizer(str(SENTENCEPIECE), {"<|endoftext|>": 1, "<|system|>": 2, "<|assistant|>": 3})
    with pytest.raises(ConfigError, match=r"lack <\|im_start\|>, <\|im_sep\|>, <\|im_end\|>"):
        Phi4Tokenizer(str(phi4_files / "tokenizer.json"), special_tokens={"<|endoftext|>": 1})
    with pytest.raises(ConfigError, match="'left' or 'right'"):
        phi3_mini_tokenizer(str(SENTENCEPIECE), truncation_type="middle")
