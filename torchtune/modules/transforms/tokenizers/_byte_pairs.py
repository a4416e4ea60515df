"""A byte-pair tokenizer of ``vocab.json`` and ``merges.txt``, for models that split text by a pattern of their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers._files import read_json
from torchtune.modules.transforms.tokenizers._gpt2 import _read_merges

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def byte_pair_tokenizer(
    vocab_path: str | Path,
    merges_path: str | Path,
    *,
    pattern: str,
    special_tokens: Mapping[str, int],
    written_in_text: Collection[str] = (),
    normal_form: str | None = None,
    unk_token: str | None = None,
    cache_size: int = 10_000,
) -> Tokenizer:
    """The tokenizer that the files and these facts describe; it adds nothing around a text.

    Args:
        pattern: the regular expression that splits text before byte pairs are merged.
        special_tokens: name -> id, beside the words of ``vocab.json``.
        written_in_text: those of them that a text may contain; the others are what is skipped in decoding.
        normal_form: ``"NFC"`` for text in Unicode's composed form; None takes it as it is.
        unk_token: stands for a byte that the vocabulary lacks; None leaves such bytes out.
        cache_size: split words whose ids are remembered.

    Raises:
        DataError: the files do not go together, or two words have one id.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = read_json(vocab_path, "a vocab.json (word -> id)") | dict(special_tokens)
    merges = _read_merges(merges_path)
    try:
        bpe = models.BPE(words, merges, unk_token=unk_token, cache_capacity=cache_size)
    except Exception as error:  # the Rust library raises plain Exception for every fault of the files
        raise DataError(f"{merges_path} does not go with {vocab_path}: {error}") from error
    if len(set(words.values())) < len(words):
        raise DataError(f"{vocab_path}: two words have one id, the special tokens {special_tokens} included")
    tokenizer = Tokenizer(bpe)
    if normal_form == "NFC":
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for name in sorted(special_tokens, key=special_tokens.get):
        token = AddedToken(name, special=name not in written_in_text, normalized=False)
        tokenizer.add_tokens([token])
    return tokenizer
