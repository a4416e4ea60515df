"""Models of a few thousand weights in the layouts that the guides download; Llamas with true tokenizers."""

import json
import shutil
from functools import cache
from importlib import util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hf_folders import CHATML, families, save
from tiny_run import SIZES, make_model
from tokenizer_files import llama3_tokenizer_json

from torchtune.models._llama3_tokenizer import LLAMA3_SPECIAL_TOKENS

# The sizes of ``tiny_run.make_model`` as a model builder's arguments.
BUILDER = {"num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 128}
BUILDER |= {"max_seq_len": 4096}
# The models of other families, by the name up to the size: type, and chat template.
_FAMILIES = {"Qwen3": ("qwen3", CHATML), "SmolLM2": ("llama", None)}
_VOCABULARY = {"llama2": 32_000, "llama3": 128_256}


def generation_of(name: str) -> str:
    """Which tokenizer a model's or folder's name wants."""
    return "llama2" if name.lower().replace("-", "").startswith(("llama2", "code_llama2", "codellama")) else "llama3"


def tokenizer_file(name: str) -> Path:
    """The true tokenizer of Llama 3; for Llama 2 one of the same kind and size."""
    package, *path = {
        "llama3": ("llama_models", "llama3", "tokenizer.model"),
        "llama2": ("mistral_common", "data", "tokenizer.model.v1"),
    }[generation_of(name)]
    return Path(util.find_spec(package).submodule_search_locations[0], *path)


def vocab_size(name: str) -> int:
    """Rows of the embedding."""
    return _VOCABULARY[generation_of(name)]


def hugging_face_folder(folder: Path) -> None:
    """What the Hub holds of a model; of a Llama Hugging Face's format, and Meta's in ``original``."""
    name = folder.name
    if kind := _FAMILIES.get(name.partition("-")[0]):
        model_type, template = kind
        save(
            folder,
            families()[model_type],
            template,
            hidden_size=64,
            intermediate_size=128,
            max_position_embeddings=4096,
        )
        return
    make_model(folder, tied="3.2" in name, vocab_size=vocab_size(name), dtype=torch.bfloat16)
    shutil.copyfile(tokenizer_file(name), folder / "tokenizer.model")
    if generation_of(name) == "llama3":
        (folder / "tokenizer.json").write_bytes(_llama3_tokenizer_json())
    meta_folder(folder / "original", name)


@cache
def _llama3_tokenizer_json() -> bytes:
    """The words of ``tokenizer.model`` in the other form, as the Hub has both."""
    names = sorted(LLAMA3_SPECIAL_TOKENS, key=LLAMA3_SPECIAL_TOKENS.get)[: vocab_size("llama3") - 128_000]
    with TemporaryDirectory() as folder:
        llama3_tokenizer_json(tokenizer_file("llama3"), Path(folder, "tokenizer.json"), names)
        return Path(folder, "tokenizer.json").read_bytes()


def meta_folder(folder: Path, name: str | None = None) -> None:
    """Meta's own format: weights, ``params.json`` and the tokenizer, for the model ``name`` (None: the folder's)."""
    folder.mkdir(parents=True)
    torch.save(_meta_weights(vocab_size(name or folder.name)), folder / "consolidated.00.pth")
    (folder / "params.json").write_text('{"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}')
    shutil.copyfile(tokenizer_file(name or folder.name), folder / "tokenizer.model")


def _meta_weights(vocab: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    dim, wide = SIZES["hidden_size"], SIZES["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings": (vocab, dim), "norm": (dim,), "output": (vocab, dim)}
    for i in range(SIZES["num_hidden_layers"]):
        rows = {"wq": dim, "wk": dim // 2, "wv": dim // 2, "wo": dim}
        shapes |= {f"layers.{i}.attention.{name}": (count, dim) for name, count in rows.items()}
        shapes |= {f"layers.{i}.feed_forward.{name}": (wide, dim) for name in ("w1", "w3")}
        shapes |= {f"layers.{i}.feed_forward.w2": (dim, wide)}
        shapes |= {f"layers.{i}.{name}": (dim,) for name in ("attention_norm", "ffn_norm")}
    return {
        f"{name}.weight": (torch.randn(shape, generator=generator) * 0.1 + (len(shape) == 1)).bfloat16()
        for name, shape in shapes.items()
    }


def local_task(folder: Path) -> Path:
    """A folder with ``texts``, a task of lm_eval whose data is there: the perplexity of two texts."""
    folder.mkdir(exist_ok=True)
    (folder / "texts.jsonl").write_text('{"text": "Say red stone"}\n{"text": "seven quiet rivers"}\n')
    files = {"data_files": str(folder / "texts.jsonl"), "cache_dir": str(folder / "cache")}
    task = {"task": "texts", "dataset_path": "json", "dataset_kwargs": files, "test_split": "train"}
    task |= {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    (folder / "texts.yaml").write_text(json.dumps({**task, "metric_list": [{"metric": "byte_perplexity"}]}))
    return folder


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Dotted key -> value, of all values in nested mappings and lists."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if children is None:
        return {path: node}
    return {k: v for key, child in children for k, v in leaves(child, f"{path}.{key}".lstrip(".")).items()}
