"""Quantising to NF4 and back on the CPU: this tree against torchao.

    python benchmarks/nf4_cpu.py --out benchmarks/results/nf4_cpu.json

Both get the same bfloat16 weights and take turns; a time is the least of all rounds. What they give is compared. The C
library keeps freed memory, as in a recipe.
"""

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from finetune_cpu import cpu_name

from torchtune.modules.low_precision.nf4 import dequantize_nf4, quantize_nf4
from torchtune.training.setup import _keep_freed_memory

SHAPES = [(2048, 2048), (4096, 14336)]  # the second is a feed-forward matrix of Llama 3 8B


def milliseconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def compare(shape: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Least milliseconds of each side for both directions."""
    from torchao.quantization import to_nf4

    weight = torch.randn(shape, dtype=torch.bfloat16)
    theirs, ours = to_nf4(weight, 64, 256), quantize_nf4(weight)
    assert torch.equal(theirs.get_original_weight(), dequantize_nf4(ours))
    works = {
        "quantise": {"torchao": lambda: to_nf4(weight, 64, 256), "this tree": lambda: quantize_nf4(weight)},
        "dequantise": {"torchao": theirs.get_original_weight, "this tree": lambda: dequantize_nf4(ours)},
    }
    result: dict[str, Any] = {"shape": shape, "equal": True}
    for direction, sides in works.items():
        times = [{side: milliseconds(work) for side, work in sides.items()} for _ in range(rounds)]
        least = {side: min(t[side] for t in times) for side in sides}
        result[direction] = {f"{side} ms": round(ms, 2) for side, ms in least.items()}
        result[direction]["speedup"] = round(least["torchao"] / least["this tree"], 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    _keep_freed_memory()
    results = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        results += [{"threads": threads, **compare(shape, args.rounds)} for shape in SHAPES]
    report = {
        "command": " ".join(["python", *sys.argv]),
        "environment": {
            "processor": cpu_name(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "torchao": version("torchao"),
        },
        "results": results,
    }
    print(json.dumps(report, indent=2))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
