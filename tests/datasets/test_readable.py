"""Ids as text: nothing is lost, nothing is cut inside of a letter, special tokens have their names."""

import pytest
from family_tokenizers import TOKENIZERS

from torchtune.datasets._readable import pieces_of, special_names, text_of

TEXT = "Zürich 日本 👩‍👩‍👧 \n\n  two  spaces, e\u0301 x\ufffdy <|im_end|> end"


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if "template" not in name] + ["template qwen3"])
def test_pieces_hold_all_ids_and_all_text(name, tmp_path):
    tokenizer = TOKENIZERS[name](tmp_path)
    ids = tokenizer.encode(TEXT, add_bos=False, add_eos=False)
    pieces = list(pieces_of(tokenizer, ids))
    assert [i for own, _ in pieces for i in own] == ids
    assert len(pieces) > 8
    assert text_of(tokenizer, ids) == "".join(text for _, text in pieces) == TEXT


@pytest.mark.parametrize("name", ["llama2", "llama3", "gemma chat", "phi3", "qwen3", "template llama3"])
def test_special_tokens_are_pieces_with_a_name(name, tmp_path):
    tokenizer = TOKENIZERS[name](tmp_path)
    first, *others = list(special_names(tokenizer))[-3:]
    ids = [first, first, *tokenizer.encode("so", add_bos=False, add_eos=False), *others]
    names = special_names(tokenizer)
    special = [text for own, text in pieces_of(tokenizer, ids) if own[0] in names]
    assert special == [names[i] for i in (first, first, *others)]
    assert "so" in text_of(tokenizer, ids)


def test_a_tokenizer_that_cannot_decode():
    assert text_of(object(), [5, 77]).split() == ["5", "77"]
