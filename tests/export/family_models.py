"""Tiny models of the families beside Llama and Mistral, each with a tokenizer of its own kind."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sentencepiece
from export_models import WORDS, edit
from family_cases import all_cases
from tokenizer_files import llama2_tokenizer_json, llama3_tokenizer_json, small_tiktoken

from torchtune.export._gguf_pre_tokenizer import _O200K_PATTERN
from torchtune.models._llama3_tokenizer import LLAMA3_PATTERN
from torchtune.models._phi_tokenizers import PHI3_SPECIAL_TOKENS
from torchtune.models._qwen_tokenizers import QWEN_PATTERN

from small_models import tokenizer_file  # isort: skip (its folder is put into the path by export_models)

CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_MARKS = ["<start_of_turn>", "<end_of_turn>"]
GEMMA_SPACES = ["\u2581" * count for count in range(2, 6)]
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system message') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI3_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PHI4_MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>"]
PHI4_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)


@dataclass(frozen=True)
class FamilyModel:
    """One tiny model.

    Args:
        case: its name in ``family_cases``.
        tokenizer: writes one into a folder and gives the number of its tokens.
        config: above the case's.
    """

    case: str
    tokenizer: Callable[[Path], int]
    config: dict[str, Any] = field(default_factory=dict)


def _split(pattern: str) -> list[dict[str, Any]]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, byte_level]


_DIGITS = [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
]


def byte_level(
    steps: list[dict[str, Any]], marks: list[str], template: str, *, takes_words: bool = False, nfc: bool = False
) -> Callable[[Path], int]:
    """Byte-level BPE: Llama 3's first words, but with its own way of cutting texts."""

    def write(folder: Path) -> int:
        words = small_tiktoken(tokenizer_file("llama3"), folder, WORDS)
        llama3_tokenizer_json(words, folder / "tokenizer.json", marks)
        words.unlink()
        content = json.loads((folder / "tokenizer.json").read_text())
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        content["normalizer"] = {"type": "NFC"} if nfc else None
        content["model"]["ignore_merges"] = takes_words
        (folder / "tokenizer.json").write_text(json.dumps(content))
        named = {"eos_token": marks[-1], "pad_token": marks[0], "tokenizer_class": "PreTrainedTokenizerFast"}
        edit(folder / "tokenizer_config.json", **named, chat_template=template)
        return WORDS + len(marks)

    return write


def gemma(folder: Path, words: int = 700) -> int:
    """Sentencepiece without a space before texts, runs of spaces as words, and marks that are no words."""
    ids = {f"{name}_id": number for number, name in enumerate(("pad", "eos", "bos", "unk"))}
    pieces = {f"{name}_piece": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    _train(folder, words, user_defined_symbols=[*GEMMA_MARKS, *GEMMA_SPACES], add_dummy_prefix=False, **ids, **pieces)
    spm = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *GEMMA_MARKS]
    _as_json(folder, {name: spm.piece_to_id(name) for name in [*special, *GEMMA_SPACES]}, special)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    content["decoder"]["decoders"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    named = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    edit(folder / "tokenizer_config.json", **named, tokenizer_class="GemmaTokenizer", chat_template=GEMMA_TEMPLATE)
    return words


def phi3(folder: Path, words: int = 600) -> int:
    """Llama 2's kind of sentencepiece, with marks after its words; no token begins a text."""
    _train(folder, words)
    added = {name: words + number for number, name in enumerate(PHI3_SPECIAL_TOKENS)}
    _as_json(folder, {"<unk>": 0, "<s>": 1, "</s>": 2} | added, ["<unk>", "<s>", "</s>", *added])
    named = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "add_bos_token": False}
    edit(folder / "tokenizer_config.json", **named, tokenizer_class="LlamaTokenizer", chat_template=PHI3_TEMPLATE)
    return words + len(added)


def _train(folder: Path, words: int, **options: Any) -> None:
    pages = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for page in pages for line in page.read_text(encoding="utf-8").splitlines()),
        model_prefix=str(folder / "tokenizer"), vocab_size=words, model_type="bpe", byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        **options,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()


def _as_json(folder: Path, added: dict[str, int], special: list[str]) -> None:
    llama2_tokenizer_json(folder / "tokenizer.model", folder / "tokenizer.json")
    content = json.loads((folder / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"] = [{"id": i, "content": n, "special": n in special, **flags} for n, i in added.items()]
    (folder / "tokenizer.json").write_text(json.dumps(content))


QWEN = byte_level(_split(QWEN_PATTERN), CHATML, CHATML_TEMPLATE, nfc=True)
DIGITS = byte_level(_DIGITS, CHATML, CHATML_TEMPLATE)
CL100K = byte_level(_split(LLAMA3_PATTERN), CHATML, CHATML_TEMPLATE)
LLAMA_BPE = byte_level(_split(LLAMA3_PATTERN), CHATML, CHATML_TEMPLATE, takes_words=True)
PHI4 = byte_level(_split(LLAMA3_PATTERN), PHI4_MARKS, PHI4_TEMPLATE)
O200K = byte_level(_split(_O200K_PATTERN), PHI4_MARKS, PHI4_TEMPLATE)
LINEAR = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}
CAPS = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 32}

# Read back by transformers, weight by weight.
READ = {
    "qwen2": FamilyModel("qwen2/7b", QWEN),
    "qwen2 tied": FamilyModel("qwen2/0.5b", QWEN),
    "qwen2 yarn": FamilyModel("qwen2/yarn", QWEN),
    "qwen3": FamilyModel("qwen3/8b", QWEN),
    "qwen3 tied": FamilyModel("qwen3/0.6b", QWEN),
    "qwen3_moe": FamilyModel("qwen3_moe/30b", QWEN),
    "gemma2": FamilyModel("gemma2/27b", gemma, CAPS),
    "gemma3": FamilyModel("gemma3/1b", gemma),
    "gemma3 linear": FamilyModel("gemma3/1b", gemma, {"rope_parameters": LINEAR}),
    "phi3": FamilyModel("phi3/mini", phi3),
    "phi3 short": FamilyModel("phi3/128k within", phi3, {"original_max_position_embeddings": 300}),
    "phi3 long": FamilyModel("phi3/128k beyond", phi3),
    "phi4": FamilyModel("phi4/14b", PHI4),
    "phi4 mini": FamilyModel("phi4/mini", O200K),
    "smollm2": FamilyModel("smollm2/135m", DIGITS),
}
# Read by llama.cpp only.
UNREAD = {
    "gemma": FamilyModel("gemma/2b", gemma),
    "granite": FamilyModel("granite/2b", DIGITS),
    "granite biases": FamilyModel("granite/untied", DIGITS),
    "mixtral": FamilyModel("mixtral/8x7b", QWEN),
    "olmo2": FamilyModel("olmo2/32b", CL100K),
    "olmo3": FamilyModel("olmo3/32b", CL100K),
    "smollm3": FamilyModel("smollm3/3b", LLAMA_BPE),
}


def make(folder: Path, model: FamilyModel) -> Path:
    """Transformers' folder of a model with random weights."""
    folder.mkdir(parents=True)
    rows = model.tokenizer(folder)
    case = all_cases()[model.case]
    sizes = {"max_position_embeddings": 320} if case.config.get("max_position_embeddings") is None else {}
    tokens = {"vocab_size": rows + 3, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    config = dict(case.config) | sizes | tokens | model.config
    replace(case, config=config).oracle().save_pretrained(folder)
    return folder
