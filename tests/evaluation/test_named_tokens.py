"""Dialogues as text and back: the ids are those of the tokenizer itself."""

from importlib import util
from pathlib import Path

import pytest

from torchtune.data import Message
from torchtune.errors import DataError
from torchtune.evaluation._text import NamedTokens
from torchtune.models.llama2 import llama2_tokenizer
from torchtune.models.llama3 import llama3_tokenizer
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer

TURNS = (("system", "Be brief."), ("user", "What is 2 + 2?"), ("assistant", "4, of course"), ("user", "And  so on?"))


def data(package: str, *path: str) -> str:
    return str(Path(util.find_spec(package).submodule_search_locations[0], *path))


@pytest.fixture(scope="module")
def llama3():
    return llama3_tokenizer(data("llama_models", "llama3", "tokenizer.model"))


def dialogue(turns):
    return [{"role": role, "content": text} for role, text in turns]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_llama3(llama3, count):
    text = NamedTokens(llama3, 128_256)
    begun = TURNS[:count] if count == 3 else (*TURNS[:count], ("assistant", ""))
    ids = llama3({"messages": [Message(*turn) for turn in begun]}, inference=True)["tokens"]
    assert text.encode(text.dialogue(dialogue(TURNS[:count]))) == ids
    assert text.dialogue(dialogue(TURNS[:count])).startswith("<|begin_of_text|><|start_header_id|>system")


@pytest.mark.parametrize("count", [2, 4])
def test_llama2(count):
    tokenizer = llama2_tokenizer(data("mistral_common", "data", "tokenizer.model.v1"))
    text = NamedTokens(tokenizer, 32_000)
    messages = [Message(*turn) for turn in (*TURNS[:count], ("assistant", ""))]
    rendered = text.dialogue(dialogue(TURNS[:count]))
    assert rendered.startswith("<s>[INST] <<SYS>>") and rendered.count("<s>") == count // 2
    assert text.encode(rendered) == tokenizer({"messages": messages}, inference=True)["tokens"]


def test_a_chat_template(folder):
    tokenizer = HuggingFaceModelTokenizer(str(folder / "tokenizer.json"))
    text = NamedTokens(tokenizer, 271)
    messages = [Message(*turn) for turn in TURNS]
    ids, _ = tokenizer.tokenize_messages(messages, add_eos=False)
    assert text.encode(text.dialogue(dialogue(TURNS))) == ids


def test_names_in_a_text_are_the_tokens(llama3):
    text = NamedTokens(llama3, 128_256)
    assert text.encode("a<|eot_id|>b") == [
        *llama3.encode("a", False, False),
        128_009,
        *llama3.encode("b", False, False),
    ]
    assert text.encode("<|image|>") == llama3.encode("<|image|>", False, False), "this model has no row for it"
    assert text.encode("") == []


def test_a_dialogue_that_the_tokenizer_would_cut_is_refused():
    tokenizer = llama3_tokenizer(data("llama_models", "llama3", "tokenizer.model"), max_seq_len=12)
    with pytest.raises(DataError, match=r"has 12 tokens or more, which is tokenizer\.max_seq_len"):
        NamedTokens(tokenizer, 128_256).dialogue(dialogue(TURNS))
