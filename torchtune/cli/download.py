"""`tune download`: brings a model's files from the Hugging Face Hub or Kaggle into a folder."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from torchtune.errors import CheckpointError, ConfigError

_DEFAULT_PARENT = Path("/tmp")
# Says which model a folder holds, so that an adapter trained on it can name its base.
REPO_ID_FILE = "original_repo_id.json"

_EPILOG = """\
examples:
  A gated model, with a token from https://huggingface.co/settings/tokens:
    tune download meta-llama/Llama-3.2-1B-Instruct --hf-token TOKEN
  Without the second copy of the weights, into a folder of your choice:
    tune download meta-llama/Llama-3.2-3B-Instruct --ignore-patterns "original/consolidated.00.pth" --output-dir llama
  From Kaggle:
    tune download metaresearch/llama-3.2/pytorch/1b --source kaggle
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `download` to the command line."""
    parser = subparsers.add_parser(
        "download",
        description="Download a model from the Hugging Face Hub or from Kaggle.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("repo_id", help="the repository, such as meta-llama/Llama-3.2-1B-Instruct, or Kaggle's handle")
    parser.add_argument("--output-dir", type=Path, help="folder for the files; default: /tmp/<model name>")
    parser.add_argument("--output-dir-use-symlinks", metavar="WHEN", help="accepted, without effect")
    parser.add_argument("--hf-token", help="for gated and private models; default: HF_TOKEN, then the stored login")
    parser.add_argument(
        "--ignore-patterns",
        action="append",
        metavar="PATTERN",
        help="leave out files that match, such as '*.pth'; may be given several times, or with commas between patterns",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hugging Face Hub; default: main")
    parser.add_argument(
        "--source", choices=["huggingface", "kaggle"], default="huggingface", help="default: huggingface"
    )
    parser.add_argument("--kaggle-username", help="needed for gated and private models; default: KAGGLE_USERNAME")
    parser.add_argument("--kaggle-api-key", help="from https://kaggle.com/settings; default: KAGGLE_KEY")
    parser.set_defaults(func=download)


def download(args: argparse.Namespace) -> None:
    """Downloads what the command line asks for, and lists what it wrote."""
    _refuse_what_the_source_lacks(args)
    if args.output_dir_use_symlinks is not None:
        print("--output-dir-use-symlinks has no effect: the Hub now always writes true files.", file=sys.stderr)
    output_dir = args.output_dir or _default_folder(args.repo_id, args.source)
    names = _from_kaggle(args, output_dir) if args.source == "kaggle" else _from_hugging_face(args, output_dir)
    (output_dir / REPO_ID_FILE).write_text(json.dumps({"repo_id": args.repo_id}, indent=4))
    print("Successfully downloaded model repo and wrote to the following locations:")
    for path in sorted(output_dir.iterdir()):
        if path.name in {*names, ".cache", REPO_ID_FILE}:
            print(path)


def _from_hugging_face(args: argparse.Namespace, output_dir: Path) -> set[str]:
    from torchtune.cli import _hub

    patterns = split_patterns(args.ignore_patterns)
    request = _hub.Request(args.repo_id, args.revision, args.hf_token, output_dir=output_dir, ignore_patterns=patterns)
    files = _hub.plan(request)
    if not files:
        left = f" that {', '.join(patterns)} leaves over" if patterns else ""
        raise ConfigError(f"{args.repo_id} has no file{left}")
    _show(files, args.repo_id, output_dir, _hub.free_bytes(output_dir))
    _hub.fetch(request)
    return {file.name.partition("/")[0] for file in files}


def _from_kaggle(args: argparse.Namespace, output_dir: Path) -> set[str]:
    from torchtune.cli import _kaggle

    output_dir.mkdir(parents=True, exist_ok=True)
    _kaggle.fetch(args.repo_id, output_dir, args.kaggle_username, args.kaggle_api_key)
    return {path.name for path in output_dir.iterdir()}


def _show(files: list, repo_id: str, output_dir: Path, free: int) -> None:
    """Prints what is about to happen.

    Raises:
        CheckpointError: it does not fit on the disk.
    """
    missing = [file for file in files if file.is_missing]
    needed = sum(file.num_bytes for file in missing)
    print(f"{repo_id} -> {output_dir}")
    for file in files:
        print(f"  {sized(file.num_bytes):>9}  {file.name}{'' if file.is_missing else '  (already there)'}")
    print(f"{len(missing)} of {len(files)} files to download, {sized(needed)}; {sized(free)} are free.", flush=True)
    if needed > free:
        raise CheckpointError(
            f"{repo_id} needs {sized(needed)}, but the disk of {output_dir} has {sized(free)} free. Choose another "
            "--output-dir, free some space, or leave files out with --ignore-patterns"
        )


def split_patterns(given: Sequence[str] | None) -> tuple[str, ...]:
    """What ``--ignore-patterns`` was given, several times or with commas in between."""
    return tuple(pattern.strip() for some in given or () for pattern in some.split(",") if pattern.strip())


def _default_folder(repo_id: str, source: str) -> Path:
    # Kaggle's handles go on after the model: metaresearch/llama-3.2/pytorch/1b.
    parts = repo_id.split("/")
    return _DEFAULT_PARENT.joinpath(*(parts[1:] or parts) if source == "kaggle" else parts[-1:])


def _refuse_what_the_source_lacks(args: argparse.Namespace) -> None:
    foreign = {
        "kaggle": ("hf_token", "ignore_patterns", "revision"),
        "huggingface": ("kaggle_username", "kaggle_api_key"),
    }
    for name in foreign[args.source]:
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} has no meaning with --source {args.source}; leave it out")


def sized(num_bytes: int) -> str:
    """Decimal units, as the Hub's pages show them."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
