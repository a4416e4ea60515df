"""Writes the tables of measurements in the docs from benchmarks/results.

Run it from the repository root after a benchmark: ``python scripts/performance.py``
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
THEIRS, OURS = "torchtune 0.6.1", "this tree"
NAMES = {
    "full": "full",
    "lora": "LoRA",
    "dropout": "LoRA, dropout 0.05",
    "dora": "DoRA",
    "qlora": "QLoRA",
}


def training(report: dict[str, Any]) -> str:
    """Speed, length and memory of each method on both sides."""
    head = "| | tokens per second, 0.6.1 | here | | command, seconds, 0.6.1 | here | peak memory, GiB, 0.6.1 | here | |"
    rows = [head, "|---|---|---|---|---|---|---|---|---|"]
    for method, sides in report["results"].items():
        theirs, ours = sides[THEIRS], sides[OURS]
        times = ours["tokens_per_second"] / theirs["tokens_per_second"]
        memory = ours["peak_memory_gib"] / theirs["peak_memory_gib"]
        cells = [NAMES[method], _rate(theirs), _rate(ours), f"{times:.1f} times"]
        cells += [f"{side['command_seconds']:.0f}" for side in (theirs, ours)]
        cells += [f"{side['peak_memory_gib']:.2f}" for side in (theirs, ours)]
        rows.append(f"| {' | '.join([*cells, f'{memory:.2f} times'])} |")
    return "\n".join([_setting(report), "", *rows])


def _rate(side: dict[str, float]) -> str:
    low, high = side["tokens_per_second_min"], side["tokens_per_second_max"]
    return f"{side['tokens_per_second']:,.0f} ({low:,.0f} to {high:,.0f})"


def _setting(report: dict[str, Any]) -> str:
    found = report["environment"]
    rounds = len(next(iter(report["runs"].values()))[OURS])
    return (
        f"{found['processor']}, PyTorch {found['torch']}, threads: {found['threads']}, steps: {report['steps']}, "
        f"runs of each side in turn: {rounds}, load average before: {found['load_average_before']:.1f}, "
        f"{found['date']}."
    )


def loading(report: dict[str, Any]) -> str:
    """Memory of loading a model with its base in 4 bits."""
    theirs, ours = (report["results"]["qlora"][side] for side in (THEIRS, OURS))
    rows = ["| GiB | torchtune 0.6.1 | here |", "|---|---|---|"]
    for key, what in (("peak_memory_of_loading_gib", "while loading"), ("peak_memory_gib", "over the whole command")):
        rows.append(f"| most memory {what} | {theirs[key]:.2f} | {ours[key]:.2f} |")
    plain, small = report["weights_gib"], report["quantised_weights_gib"]
    sizes = f"All weights take {plain:.2f} GiB in bf16, and {small:.2f} GiB with those of the layers in 4 bits."
    return "\n".join([sizes, _setting(report), "", *rows])


def generating(report: dict[str, Any]) -> str:
    """Speed of decoding on each side."""
    found = report["environment"]
    setting = (
        f"{found['processor']}, PyTorch {found['torch']}, transformers {found['transformers']}, threads: "
        f"{found['threads']}, load average before: {found['load_average_before']:.1f}, {found['date']}."
    )
    sides = [side for side in (THEIRS, "transformers", OURS) if side in next(iter(report["results"].values()))]
    heads = [{OURS: "here"}.get(side, side) for side in sides]
    rows = [f"| prompts at a time | {' | '.join(heads)} |", "|---" * (len(sides) + 1) + "|"]
    for batch_size, rates in report["results"].items():
        rows.append(f"| {batch_size} | {' | '.join(_rate(rates[side]) for side in sides)} |")
    return "\n".join([setting, "", *rows])


def quantized(report: dict[str, Any]) -> str:
    """Speed of decoding with weights of each kind, as they are and compiled."""
    found, rows = (
        report["environment"],
        ["| Weights | MB | tokens per second | with `compile=True` |", "|---|---|---|---|"],
    )
    rates = {(r["weights"], r["compiled"]): r["tokens per second"] for r in report["results"]}
    for result in report["results"]:
        name = result["weights"]
        if not result["compiled"]:
            cells = [name if name == "bf16" else f"`{name}`", f"{result['MB']:.0f}"]
            rows.append(f"| {' | '.join([*cells, *(f'{rates[name, compiled]:.1f}' for compiled in (False, True))])} |")
    setting = (
        f"{found['processor']}, PyTorch {found['torch']}, torchao {found['torchao']}, threads: {found['threads']}."
    )
    return "\n".join([setting, "", *rows])


def packing(report: dict[str, Any]) -> str:
    """Tokenising and packing on each side, then the speed of training on packs and on padded rows."""
    found = report["environment"]
    setting = (
        f"{found['processor']}, PyTorch {found['torch']}, load average before: {found['load_average_before']:.1f}, "
        f"{found['date']}; {report['rows']:,} rows, packs of {report['length']:,} tokens."
    )
    rows = ["| | seconds | packs | filled | peak memory, GiB |", "|---|---|---|---|---|"]
    for name, way in report["packing"].items():
        cells = [name, f"{way['seconds']:.1f}", f"{way['packs']:,}", f"{100 * way['filled']:.2f} %"]
        rows.append(f"| {' | '.join([*cells, format(way['peak_memory_gib'], '.2f')])} |")
    trained = ["| Training | tokens per second | steps per second |", "|---|---|---|"]
    for name, way in report["training"].items():
        trained.append(f"| {name} | {way['tokens_per_second']:,.0f} | {way['steps_per_second']:.2f} |")
    return "\n".join([setting, "", *rows, "", *trained])


# By the name of the file of results: the page, and what writes its table.
TABLES = {
    "adapters_cpu": ("performance.md", training),
    "qlora_load_cpu": ("performance.md", loading),
    "generate_cpu": ("performance.md", generating),
    "packing_cpu": ("performance.md", packing),
    "quantized_decode_cpu": ("quantization.md", quantized),
}


def render(page: str, name: str) -> str:
    """A page's text with the table of a file of results made anew, between a pair of comments with that name."""
    report = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    begin, end = f"<!-- {name}.json -->", f"<!-- end of {name}.json -->"
    text = f"{begin}\n\n{TABLES[name][1](report)}\n\n{end}"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: text, page, flags=re.S)


if __name__ == "__main__":
    for name, (page, _) in TABLES.items():
        path = ROOT / "docs" / page
        path.write_text(render(path.read_text(), name))
