"""A folder's tokenizer as GGUF keeps it (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchtune.errors import CheckpointError
from torchtune.export._gguf_pre_tokenizer import pre_tokenizer
from torchtune.export._tokenizer import JSON, file_of_kind, settings, template_of
from torchtune.modules.transforms.tokenizers import SentencePieceBaseTokenizer
from torchtune.modules.transforms.tokenizers._files import SENTENCEPIECE
from torchtune.modules.transforms.tokenizers._tokenizer_json import load_tokenizer_json, token_text
from torchtune.training.checkpointing import check_vocabulary
from torchtune.training.checkpointing._io import read_json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_ADDED_SCORE = -1000.0  # what llama.cpp's own converter gives tokens that sentencepiece has no score for
_ENDS = {"eot": ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>"), "eom": ("<|eom_id|>",)}
_IMAGES = ("<|image|>", "<image_soft_token>")  # the last ids, for which a model without images has no row
_SPACE = "\u2581"


@dataclass
class Vocabulary:
    """Tokens by id with their types, and what else a reader needs.

    Args:
        model, pre: llama.cpp's names of the algorithm and of the splitting before it.
        scores: of sentencepiece; ``merges``: of byte-level BPE.
        ids: of ``bos``, ``eos``, ``pad``, ``unk``, ``eot`` and ``eom``, as far as there are any.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    add_bos: bool = True
    add_space_prefix: bool | None = None
    chat_template: str | None = None

    def drop_last(self) -> None:
        """Leave out the token with the largest id."""
        for of_each in filter(None, (self.tokens, self.types, self.scores)):
            of_each.pop()


def read_vocabulary(folder: Path, config: Mapping[str, Any], rows: int) -> Vocabulary:
    """The tokenizer in a folder.

    Args:
        config: of ``config.json``.
        rows: of the model's embedding; tokens that the tokenizer lacks are filled up.

    Raises:
        CheckpointError: there is no tokenizer, it has more tokens than the model, or llama.cpp does not have its kind.
    """
    if path := file_of_kind(folder, SENTENCEPIECE):
        found = _sentencepiece(path, folder / JSON)
    elif (folder / JSON).is_file():
        found = _byte_level(folder / JSON)
    else:
        raise CheckpointError(
            f"{folder} has neither {JSON} nor a sentencepiece tokenizer.model, and a GGUF file holds the tokenizer; "
            "give a Hugging Face folder of the model with --base"
        )
    while len(found.tokens) > rows and found.tokens[-1] in _IMAGES:
        found.drop_last()
    check_vocabulary(rows, len(found.tokens))
    absent = range(len(found.tokens), rows)
    found.tokens += [f"[PAD{number}]" for number in absent]
    found.types += [UNUSED] * len(absent)
    found.scores += [_ADDED_SCORE] * len(absent) if found.scores else []
    found.ids |= _special_ids(folder, config, found.tokens)
    found.chat_template = template_of(folder)
    return found


def add_vocabulary(writer: Any, v: Vocabulary) -> None:
    """Write a tokenizer's metadata with the package gguf's ``GGUFWriter``."""
    writer.add_tokenizer_model(v.model)
    writer.add_tokenizer_pre(v.pre)
    writer.add_token_list(v.tokens)
    writer.add_token_types(v.types)
    if v.scores:
        writer.add_token_scores(v.scores)
    else:
        writer.add_token_merges(v.merges)
    for kind, number in v.ids.items():
        getattr(writer, f"add_{kind}_token_id")(number)
    writer.add_add_bos_token(v.add_bos)
    writer.add_add_eos_token(False)
    if v.add_space_prefix is not None:
        writer.add_add_space_prefix(v.add_space_prefix)
    if v.chat_template:
        writer.add_chat_template(v.chat_template)


def _sentencepiece(path: Path, added: Path) -> Vocabulary:
    tokenizer = SentencePieceBaseTokenizer(path)
    words, ids = tokenizer.spm_model, range(tokenizer.vocab_size)
    kinds = {UNKNOWN: words.is_unknown, CONTROL: words.is_control, UNUSED: words.is_unused, BYTE: words.is_byte}
    found = Vocabulary(
        "llama",
        "default",
        tokens=[words.id_to_piece(i) for i in ids],
        types=[next((kind for kind, is_kind in kinds.items() if is_kind(i)), NORMAL) for i in ids],
        scores=[words.get_score(i) for i in ids],
        add_bos=settings(path.parent).get("add_bos_token", True),
        add_space_prefix=words.encode("a", out_type=str)[0].startswith(_SPACE),
        ids={"bos": words.bos_id(), "eos": words.eos_id(), "unk": words.unk_id()},
    )
    # What sentencepiece calls user-defined has no score; of other words the first of all may have none.
    scoreless = [i for i in ids if found.types[i] == NORMAL and found.scores[i] == 0]
    if len(scoreless) > 1 and not added.is_file():
        raise CheckpointError(
            f"{path} has words that are found in a text before all others, such as {found.tokens[scoreless[1]]!r}; the "
            "tokenizer.json that names them is needed beside it"
        )
    for number, (text, special) in sorted(_added_tokens(added).items()):
        if number == len(found.tokens):
            found.tokens.append(text)
            found.types.append(NORMAL)
            found.scores.append(_ADDED_SCORE)
        if number < len(found.tokens) and found.types[number] == NORMAL:
            found.types[number] = CONTROL if special else USER_DEFINED
            found.tokens[number] = text.replace(_SPACE, " ")  # it is found in the text itself there
    return found


def _added_tokens(path: Path) -> dict[int, tuple[str, bool]]:
    """Id -> (text, whether it is special), of a ``tokenizer.json``; nothing without one."""
    rows = read_json(path).get("added_tokens", []) if path.is_file() else []
    return {row["id"]: (row["content"], row["special"]) for row in rows}


def _byte_level(path: Path) -> Vocabulary:
    content, added = read_json(path), _added_tokens(path)
    pre, merges = pre_tokenizer(content, path), content["model"]["merges"]
    if not merges:
        raise CheckpointError(f"{path} merges no bytes to words; a GGUF file cannot hold such a tokenizer")
    by_id = {number: text for text, number in content["model"]["vocab"].items()}
    by_id |= {number: text for number, (text, _) in added.items()}
    ids = range(max(by_id) + 1)
    types = {number: CONTROL if special else USER_DEFINED for number, (_, special) in added.items()}
    first = load_tokenizer_json(path).encode("a").ids[0]
    return Vocabulary(
        "gpt2",
        pre,
        tokens=[by_id.get(i, f"[PAD{i}]") for i in ids],
        types=[types.get(i, NORMAL) if i in by_id else UNUSED for i in ids],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        add_bos=types.get(first) == CONTROL,
    )


def _special_ids(folder: Path, config: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, int]:
    """By ``tokenizer_config.json``, else by ``config.json``; the ends of messages by their names."""
    named, ids = settings(folder), {text: number for number, text in enumerate(tokens)}
    found = {}
    for kind in ("bos", "eos", "pad", "unk"):
        text, given = token_text(named.get(f"{kind}_token")), config.get(f"{kind}_token_id")
        number = ids.get(text, given[0] if isinstance(given, list) else given)
        if number is not None and 0 <= number < len(tokens):
            found[kind] = number
    ends = {kind: [ids[text] for text in texts if text in ids] for kind, texts in _ENDS.items()}
    return found | {kind: numbers[0] for kind, numbers in ends.items() if numbers}
