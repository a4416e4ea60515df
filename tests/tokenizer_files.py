"""Tokenizer files made for tests: small ones, and the same words in another form."""

import base64
import json
from pathlib import Path

import mistral_common
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from torchtune.models._llama3_tokenizer import LLAMA3_PATTERN

CHAT_TOKENS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]
MISTRAL_DATA = Path(mistral_common.__file__).parent / "data"
TEKKEN_SPECIAL, TEKKEN_WORDS = 1000, 3000


def small_tekken(folder: Path, version: str, more_special: list[str] = ()) -> Path:
    """The first words of Mistral's tekken file, which need no others to be merged from.

    Args:
        more_special: names of special tokens after those that old files imply.
    """
    content = json.loads((MISTRAL_DATA / "tekken_240718.json").read_bytes())
    content["vocab"] = content["vocab"][: TEKKEN_WORDS + 10]  # a few more than are used, as in Mistral's file
    content["config"] |= {"version": version, "default_vocab_size": TEKKEN_SPECIAL + TEKKEN_WORDS}
    if more_special:
        names = [*(str(token["token_str"]) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS), *more_special]
        content["special_tokens"] = [{"rank": i, "token_str": n, "is_control": True} for i, n in enumerate(names)]
    path = folder / "tekken.json"
    path.write_text(json.dumps(content))
    return path


def small_tiktoken(path: Path, folder: Path, num_words: int) -> Path:
    """The first words of a tiktoken file, which need no others to be merged from."""
    small = folder / f"tokenizer_{num_words}.model"
    small.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:num_words]))
    return small


def llama3_tokenizer_json(tiktoken: Path, path: Path, special_tokens: list[str]) -> None:
    """The words of a tiktoken file as ``tokenizer.json``, special tokens numbered after them."""
    ranks = {base64.b64decode(word): int(rank) for word, rank in map(bytes.split, tiktoken.read_bytes().splitlines())}
    letters = _byte_letters()
    pairs = (_halves(word, ranks) for word in ranks if len(word) > 1)
    # A few words of Llama 3's whole file are no pair of two others.
    merges = [tuple(_spell(part, letters) for part in pair) for pair in pairs if ranks.keys() >= set(pair)]
    bpe = models.BPE({_spell(word, letters): rank for word, rank in ranks.items()}, merges, ignore_merges=True)
    tokenizer = Tokenizer(bpe)
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special_tokens])
    tokenizer.save(str(path))


def llama2_tokenizer_json(sentencepiece: Path, path: Path) -> None:
    """A sentencepiece file's words as ``tokenizer.json``, as Llama 2's is written."""
    spm = SentencePieceProcessor(str(sentencepiece))
    vocab = {spm.id_to_piece(i): i for i in range(spm.vocab_size())}
    merges = []
    for piece, index in vocab.items():
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        merges += [(-spm.get_score(index), *pair) for pair in sorted(halves, key=lambda p: (vocab[p[0]], vocab[p[1]]))]
    merges.sort(key=lambda merge: merge[0])
    pairs = [merge[1:] for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.save(str(path))


def byte_tokenizer(path: Path, special_tokens: list[str]) -> None:
    """A ``tokenizer.json`` of the 256 bytes, special tokens numbered from 256."""
    letters = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special_tokens])
    tokenizer.save(str(path))


def chat_folder(path: Path, template: str | None, **config: object) -> Path:
    """A folder with the tokenizer of a model whose dialogues a chat template writes; ``config`` adds to its config."""
    byte_tokenizer(path / "tokenizer.json", CHAT_TOKENS)
    tokens = {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}, "model_max_length": 99}
    extra = {} if template is None else {"chat_template": template}
    (path / "tokenizer_config.json").write_text(json.dumps(tokens | extra | config))
    return path


def _byte_letters() -> dict[int, str]:
    """GPT-2's letter for each byte (https://github.com/openai/gpt-2/blob/master/src/encoder.py)."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def _spell(word: bytes, letters: dict[int, str]) -> str:
    return "".join(letters[byte] for byte in word)


def _halves(word: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    parts = [word[i : i + 1] for i in range(len(word))]
    while len(parts) > 2:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 1 << 30))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]
