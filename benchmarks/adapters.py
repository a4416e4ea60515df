"""Full, LoRA, DoRA and QLoRA fine-tuning of a random Llama: this tree against torchtune 0.6.1.

    python benchmarks/adapters.py --peer PEER/bin/tune --out benchmarks/results/adapters_cpu.json
    python benchmarks/adapters.py --peer PEER/bin/tune --model 1B --methods qlora --steps 1 batch_size=1
    python benchmarks/adapters.py --device cuda --model 8B --methods lora,qlora \\
        batch_size=2 tokenizer.max_seq_len=2048 dataset.packed=True

``--peer`` is the ``tune`` of an environment with ``torch==2.13.0 torchtune==0.6.1 torchao==0.13.0``; without it only
this tree runs. Both get the same weights, rows, order, config and number of steps, through their own command, in turn.
Fresh adapters change nothing, so both must begin with the same loss; the script fails where they do not. Tokens are
target tokens. Settings at the end of the command go to both sides.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from finetune_cpu import OURS, cpu_name
from workload import MODELS, Model

THEIRS_NAME, OURS_NAME = "torchtune 0.6.1", "this tree"
# What a method adds to the model's arguments; None has no adapters.
METHODS: dict[str, list[str] | None] = {
    "full": None,
    "lora": [],
    "dropout": ["model.lora_dropout=0.05"],
    "dora": ["model.use_dora=True"],
    "qlora": ["model.quantize_base=True"],
}
ADAPTERS = ["lora_attn_modules=[q_proj,v_proj,output_proj]", "apply_lora_to_mlp=True", "lora_rank=8", "lora_alpha=16"]
# Of the first losses, relative. In bf16 the order of sums alone changes a loss of few tokens by half of this; that the
# base is in 4 bits changes it by twice as much.
TOLERANCE = 1e-3
WARM_UP = 2  # steps
GIB = 2**30


@dataclass(frozen=True)
class Run:
    """What one run of one side measured; memory in GiB."""

    rates: list[float]
    first_loss: float
    last_loss: float
    command_seconds: float
    cpu_seconds: float
    peak_memory: float
    peak_memory_of_loading: float
    peak_gpu_memory: float | None


def settings(args: argparse.Namespace, method: str, work: Path, out: Path) -> list[str]:
    """The command's words after ``tune run``; every version of torchtune takes these."""
    model, lora = MODELS[args.model], METHODS[method]
    kind = "full" if lora is None else "lora"
    builder = f"torchtune.models.{model.family}.{'' if lora is None else 'lora_'}{model.family}"
    words = [f"{kind}_finetune_single_device", "--config", f"llama3_2/1B_{kind}_single_device"]
    words += [f"output_dir={out}", f"model={builder}", *model.sizes()]
    if lora is not None:
        words += [*(f"model.{word}" for word in ADAPTERS), *lora, "lr_scheduler.num_warmup_steps=1"]
    tokenizer = work / "model" / "original"
    if (tokenizer / "special_tokens.json").exists():
        words.append(f"tokenizer.special_tokens_path={tokenizer}/special_tokens.json")
    return words + [
        f"tokenizer.path={tokenizer}/tokenizer.model",
        "tokenizer.max_seq_len=512",
        "dataset=workload.documentation_dataset",
        f"dataset.data_files={work}/docs.json",
        f"checkpointer.checkpoint_dir={work}/model",
        "checkpointer.checkpoint_files=[model.safetensors]",
        f"checkpointer.model_type={model.family.upper()}",
        "optimizer=torch.optim.AdamW",
        "optimizer.fused=True",
        "optimizer.lr=1e-3",
        "batch_size=8",
        "gradient_accumulation_steps=1",
        "shuffle=False",
        "seed=0",
        "dtype=bf16",
        f"device={args.device}",
        f"log_peak_memory_stats={args.device != 'cpu'}",
        f"max_steps_per_epoch={args.steps}",
        *args.settings,
    ]


def run(tune: Path, words: list[str], out: Path, threads: int) -> Run:
    """One run in a process of its own."""
    here = Path(__file__).parent  # of the dataset
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(here)}
    started = time.perf_counter()
    command = [str(tune), "run", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=here, env=env, **pipes)
    output, loading = [], 0.0
    for line in process.stdout:
        output.append(line)
        if "Model is initialized" in line:
            loading = resident_peak(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"{tune} ended with {process.returncode}:\n{''.join(output)[-3000:]}")
    log = logged(next((out / "logs").glob("log_*.txt")).read_text())
    return Run(
        rates=log["tokens_per_second_per_gpu"],
        first_loss=log["loss"][0],
        last_loss=log["loss"][-1],
        command_seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_memory=usage.ru_maxrss * 1024 / GIB,
        peak_memory_of_loading=loading,
        peak_gpu_memory=max(log["peak_memory_alloc"], default=None),
    )


def logged(text: str) -> dict[str, list[float]]:
    """The steps' values in a log of ``DiskLogger``, by key."""
    keys = ("loss", "tokens_per_second_per_gpu", "peak_memory_alloc")
    return {key: [float(x) for x in re.findall(rf"\b{key}:([\d.e+-]+|nan)", text)] for key in keys}


def resident_peak(pid: int) -> float:
    """The most that a running process has held in RAM so far, pages of mapped files included; GiB."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 / GIB


def turns(rounds: int, methods: list[str], sides: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """Method and side of each run; which side goes first changes with the round."""
    for number in range(rounds):
        for method in methods:
            yield from ((method, side) for side in (list(sides) if number % 2 == 0 else reversed(sides)))


def summary(runs: list[Run]) -> dict[str, float | None]:
    """Of the steps' rates, the median without the first steps; over the runs, the median, and the spread of rates."""
    rates = [statistics.median(one.rates[WARM_UP:] or one.rates) for one in runs]
    gpu = [one.peak_gpu_memory for one in runs if one.peak_gpu_memory is not None]
    return {
        "tokens_per_second": statistics.median(rates),
        "tokens_per_second_min": min(rates),
        "tokens_per_second_max": max(rates),
        "command_seconds": statistics.median(one.command_seconds for one in runs),
        "cpu_seconds": statistics.median(one.cpu_seconds for one in runs),
        "peak_memory_gib": statistics.median(one.peak_memory for one in runs),
        "peak_memory_of_loading_gib": statistics.median(one.peak_memory_of_loading for one in runs),
        "peak_gpu_memory_gib": statistics.median(gpu) if gpu else None,
        "first_loss": runs[0].first_loss,
        "last_loss": runs[0].last_loss,
    }


def different_starts(results: dict[str, dict[str, dict]]) -> list[str]:
    """The methods whose sides do not begin with the same loss, with both losses."""
    found = []
    for method, sides in results.items():
        losses = {side: values["first_loss"] for side, values in sides.items()}
        first, *others = losses.values()
        if not all(abs(other - first) <= TOLERANCE * first for other in others):  # not so for NaN either
            found.append(f"{method}: {losses}")
    return found


def weights_gib(model: Model, quantised: bool) -> float:
    """Size of the weights in bf16, or with those of the layers' linear modules in NF4."""
    in_layer = sum(rows * width for rows, width in model.linears().values())
    per_value = 1 / 2 + 1 / 64 + 2 / (64 * 256) if quantised else 2
    norms = (2 * model.num_layers + 1) * model.embed_dim
    others = model.vocab_size * model.embed_dim * (1 if model.tied else 2) + norms
    return (model.num_layers * in_layer * per_value + 2 * others) / GIB


def versions(peer: Path | None) -> dict[str, str]:
    """What the sides ran on."""
    found = {"python": platform.python_version(), "torch": version("torch")}
    if peer:
        ask = "from importlib.metadata import version as v; print(v('torch'), v('torchtune'), v('torchao'))"
        told = subprocess.run([peer.with_name("python"), "-c", ask], capture_output=True, text=True, check=True)
        found |= dict(zip(("peer_torch", "peer_torchtune", "peer_torchao"), told.stdout.split()))
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the `tune` of torchtune 0.6.1's environment")
    parser.add_argument("--methods", default=",".join(METHODS), help="some of: %(default)s")
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the config, for both sides")
    args = parser.parse_args()
    args.methods = args.methods.split(",")
    if unknown := set(args.methods) - set(METHODS):
        parser.error(f"no method {', '.join(unknown)}; there are {', '.join(METHODS)}")
    return args


def measure(args: argparse.Namespace, work: Path) -> dict[str, dict[str, list[Run]]]:
    """The runs of each side, by method."""
    sides = {THEIRS_NAME: args.peer.absolute(), OURS_NAME: OURS} if args.peer else {OURS_NAME: OURS}
    runs: dict[str, dict[str, list[Run]]] = {method: {side: [] for side in sides} for method in args.methods}
    for method, side in turns(args.rounds, args.methods, sides):
        out = work / "out"
        one = run(sides[side], settings(args, method, work, out), out, args.threads)
        shutil.rmtree(out)
        runs[method][side].append(one)
        rate = statistics.median(one.rates[WARM_UP:] or one.rates)
        print(
            f"{method}, {side}: {rate:.0f} tokens/s, {one.peak_memory:.2f} GiB, loss {one.first_loss:.4f}", flush=True
        )
    return runs


def main() -> None:
    args, load_before = arguments(), os.getloadavg()[0]
    work = Path(tempfile.mkdtemp(prefix="adapters_"))
    try:
        # In a process of its own: memory that this one has held counts as held by those that it starts.
        maker = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("workload.py")), str(work)]
        subprocess.run([*maker, "--model", args.model], check=True)
        runs = measure(args, work)
    finally:
        shutil.rmtree(work)
    results = {method: {side: summary(of_side) for side, of_side in sides.items()} for method, sides in runs.items()}
    report = {
        "command": " ".join(["python", *sys.argv]).replace(str(args.peer or " "), "PEER/bin/tune"),
        "environment": {
            "date": datetime.date.today().isoformat(),
            "processor": cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": args.threads,
            "load_average_before": load_before,
            **versions(args.peer),
        },
        "model": asdict(MODELS[args.model]),
        "weights_gib": weights_gib(MODELS[args.model], quantised=False),
        "quantised_weights_gib": weights_gib(MODELS[args.model], quantised=True),
        "steps": args.steps,
        "results": results,
        "runs": {m: {side: [asdict(one) for one in ones] for side, ones in s.items()} for m, s in runs.items()},
    }
    print(json.dumps(results, indent=2))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    if found := different_starts(results):
        sys.exit("the sides do not begin with the same loss: " + "; ".join(found))


if __name__ == "__main__":
    main()
