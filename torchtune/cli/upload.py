"""`tune upload`: publishes a model on the Hugging Face Hub, with a card that tells how it was made."""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torchtune.errors import ConfigError

if TYPE_CHECKING:
    from torchtune.cli._card_facts import Facts
    from torchtune.cli._hub_upload import Target
    from torchtune.cli._upload_files import Selection

_EPILOG = """\
examples:
  Look at what would be uploaded, and at the card:
    tune upload /tmp/torchtune/llama3_2_1B/lora_single_device/epoch_0 me/my-model --dry-run
  Upload it, for nobody else to see:
    tune upload /tmp/torchtune/llama3_2_1B/lora_single_device/epoch_0 me/my-model
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `upload` to the command line."""
    parser = subparsers.add_parser(
        "upload",
        description="Publish a model on the Hugging Face Hub, with a model card made from its run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, help="folder of the model: epoch_N, an export, any in Hugging Face's format")
    parser.add_argument("repo_id", metavar="repo", help="OWNER/NAME, or a NAME of the token's account")
    parser.add_argument("--dry-run", action="store_true", help="show the files and the card, and upload nothing")
    parser.add_argument("--public", action="store_true", help="let anybody see the repository; default: only its owner")
    parser.add_argument("--revision", metavar="BRANCH", help="made if it is not there; default: main")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument(
        "--hf-token",
        "--token",
        metavar="TOKEN",
        help="one that may write; default: HF_TOKEN, then the stored login",
    )
    parser.add_argument("--card", type=Path, metavar="FILE", help="take this as README.md in place of the card")
    parser.add_argument(
        "--ignore-patterns",
        action="append",
        metavar="PATTERN",
        help="leave out files that match, such as 'original/*'; may be given several times, or with commas in between",
    )
    parser.add_argument(
        "--adapter-pt", action="store_true", help="take adapter_model.pt along, which PEFT does not use"
    )
    parser.add_argument(
        "--replace", action="store_true", help="delete weights that are in the repository and not in the folder"
    )
    parser.set_defaults(func=upload)


def upload(args: argparse.Namespace) -> None:
    """Shows what is about to be uploaded, and uploads it."""
    from torchtune.cli import _hub_upload
    from torchtune.cli._card_facts import gather
    from torchtune.cli._upload_files import CARD, check, select
    from torchtune.cli.download import split_patterns

    folder = Path(os.path.abspath(args.path.expanduser()))  # its parent's name matters, and `.` has none
    target = _hub_upload.checked(_target(args))
    selection = select(folder, split_patterns(args.ignore_patterns), args.adapter_pt)
    if not args.dry_run:
        target = _hub_upload.owned(target)
    print("Checking the files ...", flush=True)
    changed = check(folder, selection)
    facts = gather(folder)
    text = _own_card(args.card) if args.card else _card(target, selection, facts)
    files = {**selection.files, CARD: text.encode()}
    _show(folder, target, selection, files)
    for note in _notes(folder, selection, facts, args.card, changed):
        print(f"Note: {note}.")
    if args.dry_run:
        return print(f"\nThe card:\n\n{text}\nNothing was uploaded (--dry-run).")
    print("Uploading ...", flush=True)
    print(f"Uploaded: {_hub_upload.publish(target, files)}")


def _target(args: argparse.Namespace) -> "Target":
    from torchtune.cli._hub_upload import Target

    given = {"public": args.public, "replace": args.replace} | ({"message": args.message} if args.message else {})
    return Target(args.repo_id, args.revision, args.hf_token, **given)


def _card(target: "Target", selection: "Selection", facts: "Facts") -> str:
    from torchtune.cli._card import card

    has_adapter = selection.kind == "model" and "adapter/adapter_model.safetensors" in selection.files
    return card(target.repo_id, target.revision, selection.kind, facts, has_adapter)


def _own_card(path: Path) -> str:
    from torchtune.cli._upload_files import holds_secret

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as problem:
        raise ConfigError(f"--card {path} cannot be read: {problem}") from None
    if holds_secret(path):
        raise ConfigError(f"--card {path} holds what looks like a credential; remove it")
    return text


def _show(folder: Path, target: "Target", selection: "Selection", files: Mapping[str, Path | bytes]) -> None:
    """Prints what is about to happen."""
    from torchtune.cli.download import sized

    seen = "public: anybody can see it" if target.public else "private"
    print(f"{folder} -> {target.repo_id} ({seen}), branch {target.revision or 'main'}")
    sizes = {name: len(f) if isinstance(f, bytes) else f.stat().st_size for name, f in files.items()}
    for name, size in sorted(sizes.items()):
        print(f"  {sized(size):>9}  {name}")
    print(f"{len(sizes)} files, {sized(sum(sizes.values()))}.")
    for name, reason in selection.left_out.items():
        print(f"Left out: {name} ({reason})")


def _notes(
    folder: Path, selection: "Selection", facts: "Facts", own_card: Path | None, changed: tuple[str, ...]
) -> Iterator[str]:
    """What somebody would want to know before it is public."""
    from torchtune.cli._upload_files import CARD

    if CARD in selection.files:
        yield f"{folder / CARD} stays as it is; only in the upload {own_card or 'the card'} takes its place"
    if changed:
        yield f"changed or removed since the folder was made: {', '.join(changed)}"
    if selection.kind == "weights":
        yield "transformers does not open such files; `tune export --to hf` makes a folder that it opens"
    named = (facts.adapter or {}).get("base_model_name_or_path")
    if isinstance(named, str) and Path(named).is_absolute():
        yield f"adapter_config.json names its base as {named}, which is a folder of this machine only"
    if own_card is None and facts.base is None:
        yield "no file says by its name on the Hub which model was trained, so the card does not either"
    if own_card is None and not facts.license:
        yield "no licence is known; --dry-run prints the card: save it, add `license:`, and give it with --card"
