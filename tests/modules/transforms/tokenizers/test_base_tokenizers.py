"""Tokenizers by kind of file, and what is said of a file that is of another kind."""

import base64
import json
import pickle
from pathlib import Path

import llama_models.llama3
import mistral_common
import pytest
from tokenizer_files import byte_tokenizer, small_tiktoken

import torchtune.modules.tokenizers as old_place
from torchtune.data import Message
from torchtune.errors import ConfigError, DataError
from torchtune.modules.transforms.tokenizers import (
    GPT2BaseTokenizer,
    SentencePieceBaseTokenizer,
    TikTokenBaseTokenizer,
    parse_hf_tokenizer_json,
    tokenize_messages_no_special_tokens,
)
from torchtune.modules.transforms.tokenizers._utils import split_long

SENTENCEPIECE = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
TIKTOKEN = Path(llama_models.llama3.__file__).parent / "tokenizer.model"


def _tiktoken(path: Path | str) -> TikTokenBaseTokenizer:
    return TikTokenBaseTokenizer(path, "test", r"\s+|\S+", 500, 501, {"<b>": 500, "<e>": 501})


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "pointer", "page", "noise", "json"])
@pytest.mark.parametrize("build", [SentencePieceBaseTokenizer, _tiktoken, parse_hf_tokenizer_json])
def test_a_wrong_file_is_named_with_what_it_is(build, kind, tmp_path):
    path = tmp_path / "tokenizer.model"
    written, error, said = {
        "missing": (None, ConfigError, "does not exist"),
        "folder": (None, ConfigError, "is a folder.*tokenizer.json"),
        "empty": (b"", DataError, "an empty file"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", DataError, "LFS pointer"),
        "page": (b"<!DOCTYPE html><html>Not found</html>", DataError, "a web page"),
        "noise": (b"\x93NUMPY\x01\x00" + bytes(range(200)), DataError, "bytes of another kind"),
        "json": (b'{"model": ', DataError, "a JSON file"),
    }[kind]
    if kind == "folder":
        path.mkdir()
        (path / "tokenizer.json").write_text("{}")
    elif written is not None:
        path.write_bytes(written)
    with pytest.raises(error, match=said) as caught:
        build(path)
    assert str(path) in str(caught.value) and "expected" in str(caught.value)


def test_one_format_given_for_the_other():
    with pytest.raises(DataError, match="expected a sentencepiece model.*found a tiktoken file"):
        SentencePieceBaseTokenizer(TIKTOKEN)
    with pytest.raises(DataError, match="expected a tiktoken file.*found a sentencepiece model"):
        _tiktoken(SENTENCEPIECE)


def test_tiktoken_file_with_a_rank_twice(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"".join(base64.b64encode(bytes([i])) + b" 7\n" for i in range(3)))
    with pytest.raises(DataError, match="share a rank"):
        _tiktoken(path)


def test_tiktoken(tmp_path):
    words = _tiktoken(small_tiktoken(TIKTOKEN, tmp_path, 400))
    assert (words.base_vocab_size, words.vocab_size, words.bos_id, words.eos_id) == (400, 502, 500, 501)
    ids = words.encode("the <e>")
    assert ids[0] == 500 and ids[-1] == 501 and 501 not in ids[:-1]
    assert words.decode(ids[1:]) == "the <e>" and words.decode(ids, truncate_at_eos=False) == "<b>the <e><e>"
    assert pickle.loads(pickle.dumps(words)).encode("the") == words.encode("the")
    with pytest.raises(DataError, match="502 words"):
        words.decode([9999])


@pytest.mark.parametrize("length", [0, 25_000, 25_001, 50_000, 50_001, 400_000, 400_001, 430_000])
def test_long_text_loses_nothing_when_split(length):
    for text in ("x" * length, " " * length, ("ab  " * length)[:length], "y " + "x" * length):
        pieces = list(split_long(text))
        assert "".join(pieces) == text
        runs = [run for piece in pieces for run in piece.replace(" ", "\n").split("\n")]
        assert max(map(len, runs), default=0) <= 25_000


def test_sentencepiece():
    words = SentencePieceBaseTokenizer(str(SENTENCEPIECE))
    assert (words.vocab_size, words.bos_id, words.eos_id, words.pad_id) == (32_000, 1, 2, -1)
    assert words.encode("Hello world") == [1, 22557, 1526, 2]
    assert words.encode("Hello", add_bos=False, add_eos=False, trim_leading_whitespace=True, prefix="pre") == [16230]
    assert words.decode([1, 22557, 1526, 2]) == "Hello world"
    assert words.decode(words.encode("half \ud83d")) == "half \ufffd"
    assert pickle.loads(pickle.dumps(words)).encode("Hello world") == words.encode("Hello world")


class _Recorder:
    """A tokenizer that gives each text's length as its only id and remembers which texts were to be trimmed."""

    def __init__(self, max_seq_len: int | None = None) -> None:
        self.max_seq_len = max_seq_len
        self.calls: list[tuple[str, bool]] = []

    def encode(self, text, add_bos, add_eos, trim_leading_whitespace):
        assert not add_bos and not add_eos
        self.calls.append((text, trim_leading_whitespace))
        return [len(text)]


def test_turns_without_role_tokens():
    tokenizer = _Recorder()
    texts = [("system", "S"), ("user", "U "), ("assistant", "A"), ("user", "U2"), ("assistant", "A2 ")]
    messages = [Message(*text, masked=text[0] != "assistant") for text in texts]
    tokens, mask = tokenize_messages_no_special_tokens(tokenizer, messages, bos_id=70, eos_id=80)
    assert tokens == [70, 1, 1, 1, 80, 70, 2, 2, 80]
    assert mask == [True, True, True, False, False, True, True, False, False]
    assert tokenizer.calls == [("S", False), ("U", True), ("A", False), ("U2", False), ("A2", True)]
    assert tokenize_messages_no_special_tokens(tokenizer, messages)[0] == [1, 1, 1, 2, 2]
    assert tokenize_messages_no_special_tokens(tokenizer, messages, eos_id=80, add_end_tokens=False)[0][-2:] == [2, 2]
    assert tokenize_messages_no_special_tokens(_Recorder(4), messages, eos_id=80)[0] == [1, 1, 1, 80]
    assert tokenize_messages_no_special_tokens(_Recorder(4), messages, eos_id=80, truncation_type="left")[0] == [
        80,
        2,
        2,
        80,
    ]


def test_gpt2(tmp_path):
    byte_tokenizer(tmp_path / "tokenizer.json", [])
    vocab = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    vocab |= {"Hi": 300, "he": 301, "<u>": 302, "<b>": 303, "<e>": 304}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nH i\nh e\n")
    files = (tmp_path / "vocab.json", tmp_path / "merges.txt")
    words = GPT2BaseTokenizer(*files, 302, 303, 304, 305)
    assert words.vocab_size == 261 and words.pad_id == 305
    assert words.encode("Hi there") == [303, 300, vocab["Ġ"], vocab["t"], 301, vocab["r"], vocab["e"], 304]
    assert words.encode("", add_bos=False) == [304]
    assert words.decode([303, 300, 999]) == ["<b>", "Hi", "<u>"]
    assert words.bpe("Hix") == "Hi x"
    assert GPT2BaseTokenizer(*files).encode("Hi") == [300]
    (tmp_path / "merges.txt").write_text("H i z\n")
    with pytest.raises(DataError, match="two pieces"):
        GPT2BaseTokenizer(*files)
    (tmp_path / "merges.txt").write_text("Q Q\n")
    with pytest.raises(DataError, match="does not go with"):
        GPT2BaseTokenizer(*files)


def test_old_place_has_the_same_names():
    assert old_place.TikTokenBaseTokenizer is TikTokenBaseTokenizer
    assert old_place.parse_hf_tokenizer_json is parse_hf_tokenizer_json
