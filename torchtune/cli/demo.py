"""`tune demo`: fine-tunes the tiny model that comes with the package and shows what it answers before and after."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

from torchtune.cli import catalog
from torchtune.errors import ConfigError

RECIPE, CONFIG = "full_finetune_single_device", "demo"
RESULTS = "demo.json"  # marks a folder as one that `tune demo` made and may replace
_SHOWN = 6

_INTRODUCTION = """\
A tiny Llama that comes with the package answers in plain words: stone.
Now it learns to answer as JSON in capitals: {{"answer": "STONE"}}.
This runs the recipe {recipe} with the config {config}, as `tune cat {config}` prints it.
"""

_NEXT = """\
The same with a real Llama (a GPU, and Meta's permission at https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct):
  tune download meta-llama/Llama-3.2-1B-Instruct --output-dir /tmp/Llama-3.2-1B-Instruct \
--ignore-patterns "original/consolidated*"
  tune cp llama3_2/1B_full_single_device my_config.yaml
  tune run full_finetune_single_device --config my_config.yaml"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `demo` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        usage="tune demo [--output-dir DIR] [KEY=VALUE ...]",
        description="Fine-tune a tiny model on this machine, without network or GPU, and see its answers change.",
        epilog="Example: tune demo epochs=1 optimizer.lr=1e-3",
    )
    parser.add_argument(
        "--output-dir",
        metavar="DIR",
        help="folder for the results (default: ./tune-demo); one of an earlier demo is replaced",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as in `tune run`")
    parser.set_defaults(func=demo)


def demo(args: argparse.Namespace) -> None:
    """Trains, asks the model before and after, and prints what came of it."""
    started = time.perf_counter()
    words = _words(args.output_dir, args.overrides)
    cfg = _read_config(words)
    folder = Path(cfg.output_dir)
    # Before torch is loaded: with a second thread a model this small is several times slower on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _print(_INTRODUCTION.format(recipe=RECIPE, config=CONFIG))
    if not cfg.resume_from_checkpoint:
        _make_empty(folder)
    (folder / RESULTS).write_text(json.dumps({"status": "running"}) + "\n", encoding="utf-8")
    _train(words)
    results = _ask(cfg, folder)
    results["loss"] = _losses(folder)
    results["seconds"] = round(time.perf_counter() - started, 1)
    (folder / RESULTS).write_text(json.dumps({"status": "completed", **results}, indent=1) + "\n", encoding="utf-8")
    _print("\n".join(_report(results, folder, cfg.epochs - 1)))


def _words(output_dir: str | None, overrides: Sequence[str]) -> list[str]:
    """The settings for the recipe: the user's, and less of the log than a run of its own would print."""
    keys = {word.partition("=")[0] for word in overrides}
    if output_dir is not None and "output_dir" in keys:
        raise ConfigError("the output folder is given twice, by --output-dir and by output_dir=...")
    words = [] if "log_level" in keys else ["log_level=WARNING"]
    return words + ([] if output_dir is None else [f"output_dir={output_dir}"]) + list(overrides)


def _read_config(words: Sequence[str]) -> Any:
    from torchtune import config
    from torchtune.config.schema import FinetuneConfig

    return config.read_config(config.load(catalog.find_config(CONFIG).path, words), FinetuneConfig)


def _make_empty(folder: Path) -> None:
    """Removes an earlier demo from the folder; refuses one that holds anything else, or where a demo is running."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / RESULTS).is_file():
            raise ConfigError(
                f"{folder} is not empty, and `tune demo` did not make it. "
                "Choose another folder: tune demo --output-dir DIR"
            )
        from torchtune.demo import empty

        empty(folder)
        _print(f"The earlier demo in {folder} is replaced.\n")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ConfigError(f"cannot make the folder {folder}: {problem.strerror}") from problem


def _train(words: Sequence[str]) -> None:
    from torchtune.cli.run import run

    run([RECIPE, "--config", CONFIG, *words])


def _ask(cfg: Any, folder: Path) -> dict[str, Any]:
    """The held-out prompts with their answers by the model before and after training, and the share that is right."""
    from torchtune import config, demo

    rows = demo.held_out_rows()
    tokenizer, prompts = config.instantiate(cfg.tokenizer), demo.prompts_of(rows)
    expected = [row["output"] for row in rows]
    before = demo.answer(demo.load_for(cfg), tokenizer, prompts)
    after = demo.answer(demo.load_for(cfg, folder / f"epoch_{cfg.epochs - 1}"), tokenizer, prompts)
    answers = zip(rows, before, after)
    return {
        "exact_match": {"before": demo.exact_match(before, expected), "after": demo.exact_match(after, expected)},
        "answers": [{**row, "answer_before": old, "answer_after": new} for row, old, new in answers],
    }


def _losses(folder: Path) -> dict[int, float]:
    """The loss of every step, from the metrics that the run left."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


def _report(results: Mapping[str, Any], folder: Path, last_epoch: int) -> Iterable[str]:
    losses, match = results["loss"], results["exact_match"]
    yield f"\nLoss: {', '.join(starmap('{1:.3f} at step {0}'.format, _some(losses)))}.\n"
    one_of_each = {entry["instruction"]: entry for entry in results["answers"]}
    yield from _table(list(one_of_each.values())[:_SHOWN])
    yield (
        f"\nExact match on {len(results['answers'])} prompts with words that were not in the training data: "
        f"{match['before']:.1%} before, {match['after']:.1%} after.\nAll of it took {results['seconds']:.0f} seconds.\n"
    )
    yield f"Written to {folder}:"
    for name, what in {
        f"epoch_{last_epoch}/": "the tuned model, in the layout that transformers opens as well",
        "metrics.jsonl": "the loss of every step",
        RESULTS: "every prompt and its answers before and after",
        "torchtune_config.yaml": "the config as it ran",
    }.items():
        yield f"  {name:<22} {what}"
    yield f"\n{_NEXT}"


def _some(losses: Mapping[int, float]) -> list[tuple[int, float]]:
    """Five steps, evenly spread from the first to the last."""
    steps = list(losses)
    chosen = {steps[round(i * (len(steps) - 1) / 4)] for i in range(5)}
    return [(step, losses[step]) for step in steps if step in chosen]


def _table(entries: Iterable[Mapping[str, str]]) -> Iterable[str]:
    """Prompts and answers in columns as wide as what is in them."""
    rows = [("Prompt", "Before", "After", "Expected")]
    for entry in entries:
        texts = (entry["answer_before"], entry["answer_after"], entry["output"])
        rows.append((f"{entry['instruction']} {entry['input']}", *(t if t.isprintable() else repr(t) for t in texts)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


def _print(text: str) -> None:
    print(text)
    sys.stdout.flush()  # the progress goes to stderr, and both may be one file
