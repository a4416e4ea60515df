"""Makes the benchmark's input: a small-width Llama 3.2 with its true vocabulary, and Python's documentation as rows.

    python benchmarks/workload.py FOLDER

FOLDER/model gets Hugging Face's layout (config.json, safetensors, original/tokenizer.model), FOLDER/docs.json the rows.
The tokenizer comes from the ``llama-models`` package; nothing is downloaded.
"""

import inspect
import json
import pkgutil
import shutil
import sys
from importlib import import_module, util
from pathlib import Path

import torch
from safetensors.torch import save_file

SIZES = {
    "vocab_size": 128_256,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
# The same sizes as overrides of ``torchtune.models.llama3_2.llama3_2``, for every version of torchtune.
MODEL_OVERRIDES = [
    "model=torchtune.models.llama3_2.llama3_2",
    f"model.vocab_size={SIZES['vocab_size']}",
    f"model.embed_dim={SIZES['hidden_size']}",
    f"model.intermediate_dim={SIZES['intermediate_size']}",
    f"model.num_layers={SIZES['num_hidden_layers']}",
    f"model.num_heads={SIZES['num_attention_heads']}",
    f"model.num_kv_heads={SIZES['num_key_value_heads']}",
    "model.max_seq_len=8192",
]
# Modules that do something when imported, or do not belong on every machine.
SKIPPED = {"antigravity", "this", "idlelib", "turtledemo", "test", "tkinter", "turtle", "lib2to3", "__phello__"}


def write_model(folder: Path) -> None:
    """A random model: 38 million parameters, bf16, embeddings tied."""
    (folder / "original").mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **SIZES,
        "head_dim": SIZES["hidden_size"] // SIZES["num_attention_heads"],
        "hidden_act": "silu",
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": True,
        "bos_token_id": 128_000,
        "eos_token_id": 128_001,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(random_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    source = Path(util.find_spec("llama_models").submodule_search_locations[0], "llama3", "tokenizer.model")
    shutil.copyfile(source, folder / "original" / "tokenizer.model")


def random_weights() -> dict[str, torch.Tensor]:
    """Tensors under Hugging Face's names."""
    torch.manual_seed(0)
    dim, ffn, vocab = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["vocab_size"]
    kv = dim * SIZES["num_key_value_heads"] // SIZES["num_attention_heads"]
    shapes = {"self_attn.q_proj": (dim, dim), "self_attn.k_proj": (kv, dim), "self_attn.v_proj": (kv, dim)}
    shapes |= {"self_attn.o_proj": (dim, dim), "mlp.gate_proj": (ffn, dim), "mlp.up_proj": (ffn, dim)}
    shapes |= {"mlp.down_proj": (dim, ffn)}
    weights = {"model.embed_tokens.weight": torch.randn(vocab, dim) * 0.02, "model.norm.weight": torch.ones(dim)}
    for layer in range(SIZES["num_hidden_layers"]):
        for name, shape in shapes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = torch.randn(shape) * 0.02
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = torch.ones(dim)
    return {name: tensor.bfloat16() for name, tensor in weights.items()}


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


def main(folder: Path) -> None:
    write_model(folder / "model")
    rows = documentation_rows()
    (folder / "docs.json").write_text(json.dumps(rows, indent=1))
    print(f"{len(rows)} rows, {sum(len(r['output']) for r in rows):,} characters -> {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
