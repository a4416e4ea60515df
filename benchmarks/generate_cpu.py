"""Greedy generation by a random Llama on the CPU: this tree, transformers and torchtune 0.6.1.

    python benchmarks/generate_cpu.py --peer PEER/bin/python --out benchmarks/results/generate_cpu.json

``--peer`` is the Python of an environment with ``torch==2.13.0 torchtune==0.6.1 torchao==0.13.0``; without it that side
is left out. Each side reads the same weights and prompts with a key-value cache of its own, through the function that
its users call: ``torchtune.generation.decode`` here, ``generate`` of transformers' models, and for torchtune 0.6.1
``setup_caches`` and ``torchtune.generation.generate``, as its recipe does. Sides take turns, each in a process of its
own, whose first answer is not counted. In fp32 all must write the same tokens; the script fails where they do not.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

Answer = Callable[[torch.Tensor], list[list[int]]]
OURS, THEIRS, PEER = "this tree", "transformers", "torchtune 0.6.1"
PROMPT_TOKENS = 64


def this_tree(folder: Path, dtype: torch.dtype, new: int) -> Answer:
    """Answers of this tree."""
    from torchtune.generation import decode
    from torchtune.models import family_of
    from torchtune.training.checkpointing import checkpointer_for
    from torchtune.training.distributed import World
    from torchtune.training.model import load_model

    source = checkpointer_for(folder)
    world = World(0, 1, torch.device("cpu"))
    model = load_model(lambda: family_of(source.config).build(source.config), source.weights, world, dtype=dtype).eval()
    return lambda prompts: decode(model, prompts.tolist(), max_new_tokens=new)


def transformers(folder: Path, dtype: torch.dtype, new: int) -> Answer:
    """Answers of transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.generation_config.eos_token_id = None
    how = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}

    def answer(prompts: torch.Tensor) -> list[list[int]]:
        return model.generate(prompts, attention_mask=torch.ones_like(prompts), **how)[:, PROMPT_TOKENS:].tolist()

    return answer


def torchtune_0_6_1(folder: Path, dtype: torch.dtype, new: int) -> Answer:
    """Answers of torchtune 0.6.1, which has no greedy decoding, so with a temperature that leaves no choice."""
    from torchtune import training
    from torchtune.generation import generate
    from torchtune.models.llama3_2 import llama3_2

    c = json.loads((folder / "config.json").read_text())
    sizes = {"vocab_size": c["vocab_size"], "num_layers": c["num_hidden_layers"], "embed_dim": c["hidden_size"]}
    sizes |= {"num_heads": c["num_attention_heads"], "num_kv_heads": c["num_key_value_heads"]}
    sizes |= {"intermediate_dim": c["intermediate_size"], "max_seq_len": 8192}
    files = {"checkpoint_files": ["model.safetensors"], "model_type": "LLAMA3_2", "output_dir": tempfile.gettempdir()}
    source = training.FullModelHFCheckpointer(checkpoint_dir=str(folder), **files)
    with training.set_default_dtype(dtype):
        model = llama3_2(**sizes).eval()
    model.load_state_dict(source.load_checkpoint()["model"])
    how = {"max_generated_tokens": new, "pad_id": -1, "temperature": 1e-6}

    def answer(prompts: torch.Tensor) -> list[list[int]]:
        if model.caches_are_enabled():
            model.reset_caches()
        else:
            model.setup_caches(len(prompts), dtype, decoder_max_seq_len=PROMPT_TOKENS + new)
        with torch.no_grad():
            return generate(model, prompts, **how)[0][:, PROMPT_TOKENS:].tolist()

    return answer


SIDES = {OURS: this_tree, THEIRS: transformers, PEER: torchtune_0_6_1}


def work(side: str, folder: Path, dtype: str, batch_size: int, new: int, repeats: int) -> None:
    """One side's part, in its own process: prints the seconds of each answer, and the tokens, as JSON."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    prompts = torch.randint(10, 20_000, (batch_size, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    answer = SIDES[side](folder, getattr(torch, dtype), new)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        tokens = answer(prompts)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds[1:], "tokens": tokens}))


def run(python: Path, side: str, folder: Path, args: argparse.Namespace, batch_size: int) -> dict:
    """What one process of a side measured."""
    words = [side, folder, args.dtype, batch_size, args.new_tokens, args.repeats]
    command = [str(python), __file__, "--work", *map(str, words)]
    env = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: list[dict], num_tokens: int) -> dict[str, float]:
    """Rates over all answers of a side."""
    rates = [num_tokens / seconds for run in runs for seconds in run["seconds"]]
    names = ("tokens_per_second", "tokens_per_second_min", "tokens_per_second_max")
    return dict(zip(names, (statistics.median(rates), min(rates), max(rates))))


def measure(folder: Path, pythons: dict[str, Path], args: argparse.Namespace) -> tuple[dict, dict]:
    """(rates, raw runs) of each batch size and side."""
    results, raw = {}, {}
    for batch_size in args.batch_sizes:
        runs: dict[str, list[dict]] = {side: [] for side in pythons}
        for number in range(args.rounds):
            order = list(pythons) if number % 2 == 0 else list(reversed(pythons))
            for side in order:
                runs[side].append(run(pythons[side], side, folder, args, batch_size))
        written = {side: of_side[0]["tokens"] for side, of_side in runs.items()}
        same = [side for side, tokens in written.items() if tokens == written[OURS]]
        if args.dtype == "float32" and len(same) < len(written):
            sys.exit(f"in a batch of {batch_size} only {same} write the same tokens")
        tokens = batch_size * args.new_tokens
        results[batch_size] = {side: summary(of_side, tokens) for side, of_side in runs.items()}
        raw[batch_size] = {side: [r["seconds"] for r in of_side] for side, of_side in runs.items()}
    return results, raw


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="Python of torchtune 0.6.1's environment")
    parser.add_argument("--model", default="small", help="of workload.py")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3, help="answers per process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    return parser.parse_args()


def main() -> None:
    from importlib.metadata import version

    from finetune_cpu import cpu_name
    from workload import MODELS, write_model

    args = arguments()
    load = os.getloadavg()[0]
    pythons = {OURS: Path(sys.executable), THEIRS: Path(sys.executable)} | ({PEER: args.peer} if args.peer else {})
    with tempfile.TemporaryDirectory(prefix="generate_cpu_") as folder:
        write_model(Path(folder), MODELS[args.model])
        results, raw = measure(Path(folder), pythons, args)
    report = {
        "command": " ".join(["python", *sys.argv]).replace(str(args.peer), "PEER/bin/python"),
        "environment": {
            "processor": cpu_name(),
            "threads": args.threads,
            "load_average_before": load,
            "date": datetime.date.today().isoformat(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
        "model": args.model,
        "dtype": args.dtype,
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": args.new_tokens,
        "results": results,
    }
    print(json.dumps(report, indent=2))
    if args.out:
        args.out.write_text(json.dumps(report | {"seconds": raw}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        side, folder, dtype, *numbers = sys.argv[2:]
        work(side, Path(folder), dtype, *map(int, numbers))
    else:
        main()
