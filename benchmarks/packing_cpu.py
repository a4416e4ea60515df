"""Tokenising and packing 50,000 made-up rows: this tree and torchtune 0.6.1; and training on packs and on padded rows.

    python benchmarks/packing_cpu.py --peer PEER/bin/python --out benchmarks/results/packing_cpu.json

``--peer`` is the Python of an environment with ``torch==2.13.0 torchtune==0.6.1 torchao==0.13.0``; without it that side
is left out. Both sides call ``alpaca_dataset(..., packed=True)`` on the same file with Llama 3's tokenizer, each in a
process of its own. Answers are as long as those of a chat: log-normal, cut at the length of a pack.
"""

import argparse
import datetime
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from finetune_cpu import cpu_name
from workload import MODELS, write_model, write_tokenizer

OURS, PEER = "this tree", "torchtune 0.6.1"
SYLLABLES = (
    "ba be bi bo bu ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni no nu ra re ri ro ru sa se si so ".split()
)


def write_rows(path: Path, count: int) -> None:
    """Rows of instruction and answer; half of the answers have fewer than 150 words."""
    draw = random.Random(0)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(5000)]

    def text(median: float) -> str:
        return " ".join(draw.choices(words, k=max(1, min(int(draw.lognormvariate(median, 0.9)), 1000))))

    rows = ({"instruction": text(3), "input": "", "output": text(5)} for _ in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pack(side: str, rows: str, tokenizer: str, length: int, workers: int, cache: str) -> dict[str, float]:
    """Seconds and what came of them, in this process."""
    from torchtune.datasets import alpaca_dataset
    from torchtune.models.llama3 import llama3_tokenizer

    words = llama3_tokenizer(tokenizer, max_seq_len=length)
    started = time.perf_counter()
    if side == PEER:
        packs = alpaca_dataset(words, source="json", data_files=rows, split="train", packed=True)
        used = sum(int(pack["seq_lens"][:-1].sum()) if pack["tokens"][-1] == 0 else length for pack in packs.packs)
    else:
        from torchtune.datasets._prepare import Preparation

        packs = alpaca_dataset(words, source="json", data_files=rows, packed=True)
        packs.prepare(Preparation(workers=workers, cache_dir=Path(cache) if cache else None))
        used = packs.packs.num_tokens
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "packs": len(packs), "filled": used / len(packs) / length, "peak_memory_gib": peak}


def in_a_process(python: Path, *words: object) -> dict[str, float]:
    """``pack`` in a process of its own."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="packing_cpu_") as home:
        command = [str(python), __file__, "--work", *map(str, words)]
        done = subprocess.run(command, env=env | {"HF_HOME": home}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{words[0]} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def packing(work: Path, peer: Path | None, count: int, length: int) -> dict[str, dict[str, float]]:
    """Each way to pack, by name."""
    rows, words = work / "rows.jsonl", work / "tokenizer.model"
    write_rows(rows, count)
    write_tokenizer(work, vocab_size=128_256)
    ways = {PEER: (peer, PEER, 0, "")} if peer else {}
    cache = work / "cache"
    ways |= {
        f"{OURS}, 1 process": (Path(sys.executable), OURS, 0, ""),
        f"{OURS}, 2 processes, kept on disk": (Path(sys.executable), OURS, 2, cache),
        f"{OURS}, the next run": (Path(sys.executable), OURS, 2, cache),
    }
    return {
        name: in_a_process(python, side, rows, words, length, workers, kept)
        for name, (python, side, workers, kept) in ways.items()
    }


def training(work: Path, length: int, steps: int) -> dict[str, dict[str, float]]:
    """Speed of a small model in tokens that are no padding, on padded rows and on packs."""
    model = MODELS["small"]
    write_model(work / "model", model)
    words = work / "model" / "original"
    write_tokenizer(words, model.vocab_size)
    common = [
        "full_finetune_single_device",
        *("--config", "llama3_2/1B_full_single_device"),
        *("model=torchtune.models.llama3_2.llama3_2", *model.sizes()),
        *(f"tokenizer.path={words}/tokenizer.model", f"tokenizer.special_tokens_path={words}/special_tokens.json"),
        f"tokenizer.max_seq_len={length}",
        *("dataset.source=json", f"dataset.data_files={work}/rows.jsonl"),
        f"checkpointer.checkpoint_dir={work}/model",
        *("optimizer=torch.optim.AdamW", "optimizer_in_bwd=False", "device=cpu", "dtype=bf16", "seed=0"),
        *(f"max_steps_per_epoch={steps}", "data_cache=False"),
    ]
    found = {}
    for name, batch in {"padded": ["batch_size=8"], "packed": ["batch_size=2", "dataset.packed=True"]}.items():
        out = work / name
        command = [Path(sys.executable).with_name("tune"), "run", *common, *batch, f"output_dir={out}"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"})
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        rates = [row["tokens_per_second_per_gpu"] for row in metrics[1:]]  # the first step warms up
        seconds = metrics[-1]["time"] - metrics[0]["time"]
        found[name] = {"tokens_per_second": statistics.median(rates), "steps_per_second": len(rates) / seconds}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="Python of torchtune 0.6.1's environment")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--length", type=int, default=4096, help="tokens of a pack")
    parser.add_argument("--training-length", type=int, default=1024, help="tokens of a pack to train on")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="packing_cpu_") as folder:
        packed = packing(Path(folder), args.peer, args.rows, args.length)
        trained = training(Path(folder), args.training_length, args.steps) if args.steps else {}
    report = {
        "command": " ".join(["python", *sys.argv]).replace(str(args.peer), "PEER/bin/python"),
        "environment": {
            "processor": cpu_name(),
            "load_average_before": load,
            "date": datetime.date.today().isoformat(),
            "python": platform.python_version(),
            "torch": version("torch"),
        },
        "rows": args.rows,
        "length": args.length,
        "packing": packed,
        "training": trained,
    }
    print(json.dumps(report, indent=2))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        side, rows, words, *numbers, cache = sys.argv[2:]
        print(json.dumps(pack(side, rows, words, *map(int, numbers), cache)))
    else:
        main()
