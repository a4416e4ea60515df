"""The tokenizers of all families, from files that are there or made in a moment, by name."""

import importlib.util
import io
import json
import re
from pathlib import Path

import llama_models.llama3
from sentencepiece import SentencePieceTrainer
from tokenizer_files import MISTRAL_DATA, byte_tokenizer, small_tekken, small_tiktoken

from torchtune.models._phi_tokenizers import PHI4_SPECIAL_TOKENS
from torchtune.models.gemma import gemma_tokenizer
from torchtune.models.llama2 import llama2_tokenizer
from torchtune.models.llama3 import llama3_tokenizer
from torchtune.models.mistral import mistral_tokenizer
from torchtune.models.phi3 import phi3_mini_tokenizer
from torchtune.models.phi4 import phi4_tokenizer
from torchtune.models.qwen2 import QWEN2_SPECIAL_TOKENS, qwen2_tokenizer
from torchtune.models.qwen2_5 import QWEN2_5_SPECIAL_TOKENS, qwen2_5_tokenizer
from torchtune.models.qwen3 import QWEN3_SPECIAL_TOKENS, qwen3_tokenizer
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer

TEMPLATES = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
V1, V3 = MISTRAL_DATA / "tokenizer.model.v1", MISTRAL_DATA / "mistral_instruct_tokenizer_240323.model.v3"
SPECIAL = re.compile(r"<[^<>\s{}'\"%]{2,40}>|\[/?[A-Z_]{3,}\]")  # as templates write them


def _small_llama3(folder: Path) -> str:
    return str(small_tiktoken(Path(llama_models.llama3.__file__).parent / "tokenizer.model", folder, 2000))


def _bytes(folder: Path, names: list[str]) -> str:
    byte_tokenizer(folder / "tokenizer.json", names)
    return str(folder / "tokenizer.json")


def _gemma(folder: Path) -> str:
    model = io.BytesIO()
    words = iter(Path(__file__).read_text().splitlines())
    symbols = ["<start_of_turn>", "<end_of_turn>"]
    SentencePieceTrainer.train(
        sentence_iterator=words, model_writer=model, model_type="bpe", vocab_size=500, byte_fallback=True, pad_id=0,
        eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", minloglevel=2,
        add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity",
        user_defined_symbols=symbols,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return str(folder / "tokenizer.model")


def _of_template(name: str):
    """The tokenizer of a model whose chat template this is; its words are bytes."""

    def make(folder: Path, **options):
        source = (TEMPLATES / f"{name}.jinja").read_text()
        names = list(dict.fromkeys(["<s>", "</s>", *SPECIAL.findall(source)]))
        path = _bytes(folder, names)
        config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": source}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return HuggingFaceModelTokenizer(path, today="2025-01-01", **options)

    return make


GEMMA_CHAT = "torchtune.models.gemma.GemmaChatTemplate"
# Name -> what makes it, given a folder and its arguments.
TOKENIZERS = {
    "llama2": lambda folder, **options: llama2_tokenizer(str(V1), **options),
    "llama3": lambda folder, **options: llama3_tokenizer(_small_llama3(folder), **options),
    "mistral": lambda folder, **options: mistral_tokenizer(str(V1), **options),
    "mistral v3": lambda folder, **options: mistral_tokenizer(str(V3), version="auto", **options),
    "tekken": lambda folder, **options: mistral_tokenizer(str(small_tekken(folder, "v3")), **options),
    "gemma": lambda folder, **options: gemma_tokenizer(_gemma(folder), **options),
    "gemma chat": lambda folder, **options: gemma_tokenizer(_gemma(folder), prompt_template=GEMMA_CHAT, **options),
    "qwen2": lambda folder, **options: qwen2_tokenizer(_bytes(folder, list(QWEN2_SPECIAL_TOKENS)), **options),
    "qwen2_5": lambda folder, **options: qwen2_5_tokenizer(_bytes(folder, list(QWEN2_5_SPECIAL_TOKENS)), **options),
    "qwen3": lambda folder, **options: qwen3_tokenizer(_bytes(folder, list(QWEN3_SPECIAL_TOKENS)), **options),
    "phi3": lambda folder, **options: phi3_mini_tokenizer(str(V1), **options),
    "phi4": lambda folder, **options: phi4_tokenizer(_bytes(folder, list(PHI4_SPECIAL_TOKENS)), **options),
    **{f"template {name}": _of_template(name) for name in (
        "llama3", "llama3_2", "llama3_training", "qwen2_5", "qwen3", "qwen3_training", "qwen3_5_think", "gemma",
        "gemma3", "gemma3_training", "phi3", "gptoss", "gptoss_training", "deepseek_r1_distill", "cohere2",
    )},
}  # fmt: skip
NO_SYSTEM = {"mistral", "gemma", "gemma chat", "template gemma"}
