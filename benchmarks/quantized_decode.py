"""Tokens per second of a model, as it is and quantized in memory, and the size of its weights.

    python benchmarks/quantized_decode.py --out benchmarks/results/quantized_decode_cpu.json

The model has the widths of Llama 3.2 1B, random weights, a small vocabulary and fewer layers. A time is the least of
all rounds of the same answer to one prompt; compilation is not part of it.
"""

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from finetune_cpu import cpu_name

from torchtune.generation import decode
from torchtune.models.llama3_2 import llama3_2
from torchtune.training import quantization
from torchtune.training._torchao import take_apart

WIDTHS = {"num_heads": 32, "num_kv_heads": 8, "embed_dim": 2048, "intermediate_dim": 8192}
QUANTIZERS = (
    "Int8WeightOnlyQuantizer",
    "Int8DynActInt8WeightQuantizer",
    "Int8DynActInt4WeightQuantizer",
    "Float8WeightOnlyQuantizer",
)


def build(layers: int) -> torch.nn.Module:
    """The same model on every call."""
    torch.manual_seed(0)
    model = llama3_2(vocab_size=4096, num_layers=layers, max_seq_len=512, **WIDTHS)
    return model.to(torch.bfloat16).eval()


def megabytes(model: torch.nn.Module) -> float:
    """What the weights of the layers take, as they are kept."""
    sizes = []
    for parameter in model.layers.parameters():
        plain = type(parameter.data) is torch.Tensor
        sizes += [parameter.nbytes] if plain else [part.nbytes for part in take_apart(parameter.data)[0].values()]
    return sum(sizes) / 1e6


def measure(name: str | None, compiled: bool, args: argparse.Namespace) -> dict[str, Any]:
    """One row: a quantizer (None for none), with or without compilation."""
    model = build(args.layers)
    if name is not None:
        getattr(quantization, name)().quantize(model)
    prompt = [list(range(16))]

    def seconds() -> float:
        started = time.perf_counter()
        decode(model, prompt, max_new_tokens=args.tokens, cache_tokens=16 + args.tokens, compile=compiled)
        return time.perf_counter() - started

    seconds()
    speed = args.tokens / min(seconds() for _ in range(args.rounds))
    row = {"weights": name or "bf16", "compiled": compiled, "MB": round(megabytes(model), 1)}
    return row | {"tokens per second": round(speed, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=8, help="new tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for compiled in (False, True):
        for name in (None, *QUANTIZERS):
            torch.compiler.reset()
            rows.append(measure(name, compiled, args))
            print(json.dumps(rows[-1]), flush=True)
    environment = {
        "processor": cpu_name(),
        "threads": args.threads,
        "python": platform.python_version(),
        "torch": version("torch"),
        "torchao": version("torchao"),
    }
    report = {"command": " ".join(["python", *sys.argv]), "environment": environment, "results": rows}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
