"""Full fine-tuning of a small-width Llama 3.2 (true vocabulary) on the CPU: this tree against torchtune 0.6.1.

    python benchmarks/finetune_cpu.py --peer PEER/bin/tune --out benchmarks/results/finetune_cpu.json

``--peer`` is the ``tune`` of an environment with ``torch==2.13.0 torchtune==0.6.1 torchao==0.13.0``; without it only
this tree runs. Both get the same model, rows, order (``shuffle=False``), config and number of steps, through their own
command. Runs alternate. Tokens are target tokens; time is that of the steps, without start-up and checkpoint.
"""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from workload import MODELS
from workload import main as make_workload

OURS = Path(sys.executable).with_name("tune")


def overrides(work: Path, out: Path, steps: int) -> list[str]:
    """What makes ``llama3_2/1B_full_single_device`` small and local; every version of torchtune takes these."""
    return [
        f"output_dir={out}",
        "model=torchtune.models.llama3_2.llama3_2",
        *MODELS["narrow"].sizes(),
        f"tokenizer.path={work}/model/original/tokenizer.model",
        "tokenizer.max_seq_len=512",
        "dataset.source=json",
        f"dataset.data_files={work}/docs.json",
        f"checkpointer.checkpoint_dir={work}/model",
        "checkpointer.checkpoint_files=[model.safetensors]",
        "optimizer=torch.optim.AdamW",
        "optimizer.fused=True",
        "optimizer.lr=1e-3",
        "optimizer_in_bwd=False",
        "device=cpu",
        "dtype=bf16",
        "shuffle=False",
        "seed=0",
        f"max_steps_per_epoch={steps}",
        "log_peak_memory_stats=False",
    ]


def run(tune: Path, work: Path, steps: int, threads: int, processes: int) -> dict[str, float]:
    """One run in a process of its own; gives what it measured."""
    out = Path(tempfile.mkdtemp(prefix="finetune_cpu_"))
    recipe = ["full_finetune_single_device", "--config", "llama3_2/1B_full_single_device"]
    extra = []
    if processes > 1:
        recipe = ["--nproc_per_node", str(processes), "full_finetune_distributed", "--config", "llama3_2/1B_full"]
        extra = [f"batch_size={4 // processes}"]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [str(tune), "run", *recipe, *overrides(work, out, steps), *extra]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.communicate()[0]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(f"{tune} ended with {process.returncode}:\n{output[-3000:]}")
    log = next((out / "logs").glob("log_*.txt")).read_text()
    rates = [float(x) for x in re.findall(r"tokens_per_second_per_gpu:([\d.e+]+)", log)]
    losses = [float(x) for x in re.findall(r"loss:([\d.e+-]+)", log)]
    shutil.rmtree(out)
    return {
        "wall_seconds": time.perf_counter() - started,
        "cpu_seconds": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime,
        "rates": [rate * processes for rate in rates],
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def peak_memory(tune: Path, work: Path, steps: int, threads: int) -> float:
    """Peak resident memory of a run, GiB; by a helper process, since getrusage keeps the largest child only."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    out = tempfile.mkdtemp(prefix="finetune_cpu_")
    recipe = ["full_finetune_single_device", "--config", "llama3_2/1B_full_single_device"]
    command = [str(tune), "run", *recipe, *overrides(work, Path(out), steps)]
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", script, *command]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    shutil.rmtree(out)
    return int(result.stdout) / 2**20


def target_tokens(work: Path, steps: int) -> list[int]:
    """Target tokens of each step, so that rates of both sides become seconds of the same work."""
    from torchtune.data import StepLoader, padded_collate_sft
    from torchtune.datasets import alpaca_dataset
    from torchtune.models.llama3 import llama3_tokenizer
    from torchtune.training.loss import count_targets

    tokenizer = llama3_tokenizer(str(work / "model/original/tokenizer.model"), max_seq_len=512)
    dataset = alpaca_dataset(tokenizer, source="json", data_files=str(work / "docs.json"))
    loader = StepLoader(dataset, batch_size=4, collate_fn=padded_collate_sft, seed=0, shuffle=False)
    batches = loader.epoch(0)
    return [int(count_targets(next(batches)[0])) for _ in range(steps)]


def summary(runs: list[dict], tokens: list[int]) -> dict[str, float]:
    """Medians over runs. The first step is left out: it warms up."""
    seconds = [sum(t / rate for t, rate in zip(tokens[1:], run["rates"][1:], strict=True)) for run in runs]
    rates = [sum(tokens[1:]) / s for s in seconds]
    return {
        "tokens_per_second": statistics.median(rates),
        "tokens_per_second_min": min(rates),
        "tokens_per_second_max": max(rates),
        "seconds_per_step": statistics.median(seconds) / (len(tokens) - 1),
        "cpu_seconds": statistics.median(run["cpu_seconds"] for run in runs),
        "wall_seconds": statistics.median(run["wall_seconds"] for run in runs),
        "first_loss": runs[0]["first_loss"],
        "last_loss": runs[0]["last_loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the `tune` of torchtune 0.6.1's environment")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--processes", type=int, default=1, help="of this tree; on a CPU the peer has one")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="workload_"))
    make_workload(work)
    tokens = target_tokens(work, args.steps)
    sides = {"torchtune 0.6.1": args.peer, "this tree": OURS} if args.peer else {"this tree": OURS}
    runs: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, tune in sides.items():
            runs[name].append(run(tune, work, args.steps, args.threads, args.processes if tune == OURS else 1))
    results = {name: summary(of_side, tokens) for name, of_side in runs.items()}
    for name, tune in sides.items():
        results[name]["peak_memory_gib"] = peak_memory(tune, work, args.steps, args.threads)
    report = {
        "command": " ".join(["python", *sys.argv]).replace(str(args.peer or ""), "PEER/bin/tune"),
        "environment": {
            "processor": cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": args.threads,
            "python": platform.python_version(),
            "torch": version("torch"),
        },
        "target_tokens": sum(tokens),
        "results": results,
        "runs": runs,
    }
    if args.peer:
        ours, theirs = results["this tree"], results["torchtune 0.6.1"]
        report["speedup"] = ours["tokens_per_second"] / theirs["tokens_per_second"]
        report["memory_ratio"] = ours["peak_memory_gib"] / theirs["peak_memory_gib"]
    print(json.dumps({key: value for key, value in report.items() if key != "runs"}, indent=2))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    shutil.rmtree(work)


def cpu_name() -> str:
    """The processor's name, from the system."""
    found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.processor()


if __name__ == "__main__":
    main()
