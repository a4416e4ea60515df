"""Makes a benchmark's input: a random Llama, and Python's documentation as rows.

    python benchmarks/workload.py FOLDER [--model small]

FOLDER/model gets Hugging Face's layout (config.json, safetensors, original/tokenizer.model), FOLDER/docs.json the rows.
The tokenizer comes from the ``llama-models`` package; nothing is downloaded.
"""

import argparse
import inspect
import json
import pkgutil
import sys
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Model:
    """A Llama 3.2, or with an output projection of its own a Llama 3."""

    vocab_size: int
    embed_dim: int
    intermediate_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    tied: bool = True

    @property
    def family(self) -> str:
        """Its module in torchtune.models, which has builders of its name."""
        return "llama3_2" if self.tied else "llama3"

    def sizes(self) -> list[str]:
        """The sizes as overrides of the family's builder, for every version of torchtune."""
        names = ("vocab_size", "embed_dim", "intermediate_dim", "num_layers", "num_heads", "num_kv_heads")
        return [*(f"model.{name}={getattr(self, name)}" for name in names), "model.max_seq_len=8192"]

    def linears(self) -> dict[str, tuple[int, int]]:
        """Shapes of a layer's linear layers, under Hugging Face's names."""
        dim, ffn, kv = self.embed_dim, self.intermediate_dim, self.embed_dim * self.num_kv_heads // self.num_heads
        attention = {"q_proj": (dim, dim), "k_proj": (kv, dim), "v_proj": (kv, dim), "o_proj": (dim, dim)}
        mlp = {"gate_proj": (ffn, dim), "up_proj": (ffn, dim), "down_proj": (dim, ffn)}
        return {f"self_attn.{n}": s for n, s in attention.items()} | {f"mlp.{n}": s for n, s in mlp.items()}


MODELS = {
    "narrow": Model(128_256, 256, 1024, 4, 8, 4),  # the true vocabulary is most of the work
    "small": Model(32_000, 512, 2048, 8, 8, 4),  # the layers are
    "1B": Model(128_256, 2048, 8192, 16, 32, 8),
    "3B": Model(128_256, 3072, 8192, 28, 24, 8),
    "8B": Model(128_256, 4096, 14_336, 32, 32, 8, tied=False),
}
NUM_SPECIAL = 256  # ids of Llama 3's vocabulary, after its words
# What a tokenizer of fewer words needs; the true one has them built in.
SPECIAL_TOKENS = (
    "begin_of_text", "end_of_text", "finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id",
    "eot_id", "python_tag", "image",
)  # fmt: skip
# Modules that do something when imported, or do not belong on every machine.
SKIPPED = {"antigravity", "this", "idlelib", "turtledemo", "test", "tkinter", "turtle", "lib2to3", "__phello__"}


def write_model(folder: Path, model: Model) -> None:
    """Random weights in bf16, with the sizes beside them."""
    (folder / "original").mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_size,
        "hidden_size": model.embed_dim,
        "intermediate_size": model.intermediate_dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.embed_dim // model.num_heads,
        "hidden_act": "silu",
        "max_position_embeddings": 131_072 if model.tied else 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": model.tied,
        "bos_token_id": model.vocab_size - NUM_SPECIAL,
        "eos_token_id": model.vocab_size - NUM_SPECIAL + 1,
        "torch_dtype": "bfloat16",
    }
    if model.tied:
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(random_weights(model), folder / "model.safetensors", metadata={"format": "pt"})


def random_weights(model: Model) -> dict[str, torch.Tensor]:
    """Tensors under Hugging Face's names."""
    torch.manual_seed(0)
    dim = model.embed_dim
    weights = {"model.embed_tokens.weight": _random(model.vocab_size, dim), "model.norm.weight": _ones(dim)}
    for layer in range(model.num_layers):
        for name, shape in model.linears().items():
            weights[f"model.layers.{layer}.{name}.weight"] = _random(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = _ones(dim)
    if not model.tied:
        weights["lm_head.weight"] = _random(model.vocab_size, dim)
    return weights


def _random(*shape: int) -> torch.Tensor:
    return (torch.randn(shape) * 0.02).bfloat16()


def _ones(dim: int) -> torch.Tensor:
    return torch.ones(dim, dtype=torch.bfloat16)


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Llama 3's words, the first of them where the vocabulary is smaller; then ``special_tokens.json`` has the rest."""
    source = Path(util.find_spec("llama_models").submodule_search_locations[0], "llama3", "tokenizer.model")
    words, count = source.read_bytes().splitlines(keepends=True), vocab_size - NUM_SPECIAL
    (folder / "tokenizer.model").write_bytes(b"".join(words[:count]))
    if count < len(words):
        tokens = [{"content": f"<|{name}|>", "id": count + i} for i, name in enumerate(SPECIAL_TOKENS)]
        (folder / "special_tokens.json").write_text(json.dumps({"added_tokens": tokens}))


def documentation_rows() -> list[dict[str, str]]:
    """One row for every documented function and class of the standard library."""
    rows, seen = [], set()
    for module_info in sorted(pkgutil.iter_modules(), key=lambda m: m.name):
        if module_info.name in SKIPPED or module_info.name not in sys.stdlib_module_names:
            continue
        if module_info.name.startswith("_"):
            continue
        module = import_module(module_info.name)
        for name, thing in sorted(vars(module).items()):
            documented = inspect.isroutine(thing) or inspect.isclass(thing)
            if not documented or name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
                continue
            text = inspect.getdoc(thing)
            if text and (module.__name__, name) not in seen:
                seen.add((module.__name__, name))
                kind = "class" if inspect.isclass(thing) else "function"
                what = {"instruction": f"Document this Python {kind}.", "input": f"{module.__name__}.{name}"}
                rows.append(what | {"output": text})
    return rows


def documentation_dataset(tokenizer: Any, data_files: str, packed: bool = False) -> Dataset:
    """The rows as dialogues, for every version of torchtune: plain messages, which all of them tokenize alike."""
    from torchtune.data import Message
    from torchtune.datasets import PackedDataset, SFTDataset

    def messages(row: dict[str, str], inference: bool = False) -> dict[str, list[Message]]:
        asked = f"{row['instruction']} {row['input']}"
        return {"messages": [Message(role="user", content=asked), Message(role="assistant", content=row["output"])]}

    rows = SFTDataset(
        source="json", data_files=data_files, split="train", message_transform=messages, model_transform=tokenizer
    )
    return PackedDataset(rows, max_seq_len=tokenizer.max_seq_len) if packed else rows


def main(folder: Path, model: str = "narrow") -> None:
    write_model(folder / "model", MODELS[model])
    write_tokenizer(folder / "model" / "original", MODELS[model].vocab_size)
    rows = documentation_rows()
    (folder / "docs.json").write_text(json.dumps(rows, indent=1))
    print(f"{len(rows)} rows, {sum(len(r['output']) for r in rows):,} characters -> {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=MODELS, default="narrow")
    args = parser.parse_args()
    main(args.folder, args.model)
