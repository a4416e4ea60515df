"""Tiny Llamas and Mistrals with tokenizers of true kinds and chat templates."""

import json
import sys
from pathlib import Path

import sentencepiece
from tiny_run import SPECIAL_TOKENS, make_model
from tokenizer_files import (
    TEKKEN_SPECIAL,
    TEKKEN_WORDS,
    llama2_tokenizer_json,
    llama3_tokenizer_json,
    small_tekken,
    small_tiktoken,
)
from transformers.integrations.mistral.tokenizer import MistralConverter

sys.path.append(str(Path(__file__).parents[1] / "docs"))

from small_models import tokenizer_file

WORDS = 1000
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
NEMO_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system message') }}"
    "{% endif %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)


def edit(path: Path, **keys) -> None:
    """Set keys of a JSON file; None removes one."""
    content = (json.loads(path.read_text()) if path.is_file() else {}) | keys
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def llama3(folder: Path, **options) -> Path:
    """Of Llama 3's kind: byte-level BPE with its first words, scaled RoPE, a few rows more than tokens."""
    make_model(folder, vocab_size=WORDS + len(SPECIAL_TOKENS) + 3, **options)
    words = small_tiktoken(tokenizer_file("llama3"), folder, WORDS)
    llama3_tokenizer_json(words, folder / "tokenizer.json", SPECIAL_TOKENS)
    words.unlink()
    for name in ("config.json", "generation_config.json"):
        edit(folder / name, bos_token_id=WORDS, eos_token_id=[WORDS + 1, WORDS + 5, WORDS + 6])
    named = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    edit(folder / "tokenizer_config.json", **named)
    (folder / "chat_template.jinja").write_text(LLAMA3_TEMPLATE)
    return folder


def llama2(folder: Path, words: int = 600) -> Path:
    """Of Llama 2's kind: sentencepiece with the settings of its file, plain RoPE, an output projection of its own."""
    make_model(folder, tied=False, vocab_size=words)
    _train_sentencepiece(folder / "tokenizer.model", words)
    llama2_tokenizer_json(folder / "tokenizer.model", folder / "tokenizer.json")
    edit(folder / "config.json", bos_token_id=1, eos_token_id=2, rope_scaling=None, rope_theta=10_000.0)
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    edit(folder / "tokenizer_config.json", **named, add_bos_token=True, chat_template=LLAMA2_TEMPLATE)
    return folder


def mistral(folder: Path, words: int = 600) -> Path:
    """Of Mistral 7B's kind, version 0.1: a window, and marks of dialogues that are text."""
    llama2(folder, words)
    edit(folder / "config.json", model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=96)
    return folder


def nemo(folder: Path) -> Path:
    """Of Mistral Nemo's kind: the first words of Tekken after a thousand special tokens, no window."""
    make_model(folder, tied=False, vocab_size=TEKKEN_SPECIAL + TEKKEN_WORDS)
    tekken = small_tekken(folder, "v3")
    MistralConverter(str(tekken)).converted().save(str(folder / "tokenizer.json"))
    tekken.unlink()  # transformers would take mistral-common's code with it
    sizes = {"bos_token_id": 1, "eos_token_id": 2, "rope_scaling": None, "rope_theta": 1_000_000.0}
    edit(folder / "config.json", model_type="mistral", architectures=["MistralForCausalLM"], **sizes)
    named = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    edit(folder / "tokenizer_config.json", **named, chat_template=NEMO_TEMPLATE)
    return folder


def _train_sentencepiece(path: Path, words: int) -> None:
    pages = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for page in pages for line in page.read_text(encoding="utf-8").splitlines()),
        model_prefix=str(path.with_suffix("")),
        vocab_size=words,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    path.with_suffix(".vocab").unlink()
