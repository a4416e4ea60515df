"""`tune export`: a checkpoint in the format of another program."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from torchtune.export import DTYPES, QUANTIZATIONS, REPORT, TARGETS, Options, export_to

_EPILOG = """\
formats:
{formats}

examples:
  tune export /tmp/torchtune/llama3_2_1B/full_single_device/epoch_0 --to gguf --quantize q8_0 --verify
  tune export my_adapter --to hf --base /tmp/Llama-3.2-1B-Instruct --output-dir merged
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `export` to the command line."""
    parser = subparsers.add_parser(
        "export",
        usage="tune export PATH --to FORMAT [OPTIONS]",
        description="Write a checkpoint in the format of another program.",
        epilog=_EPILOG.format(formats="\n".join(f"  {name:<10} {row.text}" for name, row in TARGETS.items())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, help="a checkpoint or adapter: epoch_N, a downloaded folder, a file in one")
    parser.add_argument("--to", metavar="FORMAT", required=True, help="one of those below")
    parser.add_argument("--output-dir", "--output", type=Path, metavar="DIR", help="default: PATH-FORMAT, beside PATH")
    parser.add_argument(
        "--base",
        type=Path,
        metavar="DIR",
        help="Hugging Face folder of the model below an adapter, or with the config and tokenizer that PATH lacks",
    )
    parser.add_argument("--dtype", metavar="TYPE", help=f"{', '.join(DTYPES)}; default: as in PATH")
    parser.add_argument(
        "--quantize", metavar="TYPE", help=f"of a GGUF file: {', '.join(QUANTIZATIONS)}; default: as in PATH"
    )
    parser.add_argument("--max-shard-size", metavar="SIZE", help="largest file of weights; default: 5GB")
    parser.add_argument(
        "--verify", action="store_true", help="read it back with other programs' code, compare, write verify.json"
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export in DIR")
    parser.set_defaults(func=export)


def export(args: argparse.Namespace) -> None:
    """Writes the export, lists its files, and says what the check has measured."""
    names = ("dtype", "quantize", "max_shard_size", "base", "verify", "force")
    options = Options(**{name: getattr(args, name) for name in names})
    folder = export_to(args.path, args.to, args.output_dir or _beside(args.path, args.to), options)
    print(f"Written to {folder}:")
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        print(f"  {path.stat().st_size:>15,}  {path.name}")
    if args.verify:
        print(*_measured(json.loads((folder / REPORT).read_text(encoding="utf-8"))), sep="\n")


def _beside(path: Path, to: str) -> Path:
    """Where the checkpoint lies, so that it stays as it is."""
    place = path.expanduser().absolute()
    while place.is_file() or (place.parent / "MANIFEST.json").is_file():
        place = place.parent
    return place.with_name(f"{place.name}-{to}")


def _measured(report: dict) -> Iterator[str]:
    readers = ", ".join(f"{name} {version}" for name, version in report["read_with"].items())
    logits, weights = report["logits"], report["weights"]
    yield f"Verified with {readers}:"
    if weights:
        yield f"  weights: all {weights['tensors']} are equal to the bit"
    yield (
        f"  logits: differ by at most {logits['max_abs_difference']:.2g} on {logits['tokens']} tokens, "
        f"rounding in float32 explains {logits['tolerance']:.2g}"
    )
    yield f"  greedy continuations of {report['greedy']['prompts']} prompts: the same"
    for what in ("texts", "dialogues"):
        if report[what]:
            yield f"  {what}: {report[what][what]} become the same tokens"
    if rounding := report["rounding"]:
        yield (
            f"  what its numbers round away: logits change by up to {rounding['max_abs_difference']:.2g}, the "
            f"likeliest token stays the same in {rounding['same_likeliest_token']:.1%}"
        )
    for note in report["notes"]:
        yield f"  note: {note}"
