"""`tune data`: what a config's data becomes, before a model is there."""

import argparse
import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

from torchtune.cli import catalog
from torchtune.cli._configs import allow
from torchtune.cli.cp import add_allow_component
from torchtune.errors import ConfigError, DataError

_EPILOG = """\
Text that is trained on is green, or stands in brackets where there are no colours (NO_COLOR, a pipe, a file).
It ends with exit code 3 when rows cannot be used, or when training would not begin for what the checks find.

examples:
  tune data llama3_2/1B_full_single_device dataset.source=json dataset.data_files=rows.jsonl
  tune data my_config.yaml --samples 5 --html data.html
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `data` to the command line."""
    parser = subparsers.add_parser(
        "data",
        usage="tune data CONFIG [key=value ...] [OPTIONS]",
        description="Show what a config's data becomes: counts, lengths, what is cut, packing, and samples in which it "
        "is to be seen what is trained on. It needs the tokenizer and no model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="name of a config (`tune ls`), or a path")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings to look at, as in `tune run`"
    )
    parser.add_argument("--samples", type=_count, default=3, metavar="N", help="how many to show; default: %(default)s")
    parser.add_argument("--seed", type=_count, default=0, metavar="N", help="draws other samples; default: %(default)s")
    parser.add_argument("--rows", type=_rows, default=(), metavar="N,N", help="show these rows, the first is 1")
    parser.add_argument(
        "--most",
        type=_positive,
        default=10_000,
        metavar="N",
        help="rows of each dataset to look at; default: %(default)s",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page for the browser")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    add_allow_component(parser)
    parser.set_defaults(func=data)


def data(args: argparse.Namespace) -> None:
    """Prints the report, and writes the page where one is asked for."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes that tokenise are parallel already
    _check_page(args.html)
    allow(args.allow_component)
    found = catalog.find_config(args.config)
    recipe = catalog.recipe_of(found)
    if recipe is None:
        print("Note: the config does not say its recipe, so only its keys about data are checked.", file=sys.stderr)

    from torchtune.config import schema
    from torchtune.data_report import Options, as_page, as_text, report_on

    options = Options(args.most, args.samples, args.seed, args.rows, whole=args.json)
    keys = getattr(schema, recipe.schema) if recipe else None
    report = report_on(found.path, args.overrides, keys, args.allow_component, options)
    if args.json:
        print(json.dumps(dataclasses.asdict(report), indent=1))
    else:
        in_terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if in_terminal else None
        print(as_text(report, colour=in_terminal and not os.environ.get("NO_COLOR"), width=width))
    if args.html:
        args.html.write_text(as_page(report), encoding="utf-8")
        print(f"Written to {args.html}", file=sys.stderr)
    if report.errors:
        many = len(report.errors)
        raise DataError(f"training would not begin: the report gives {many} error{'s' * (many != 1)}")


def _check_page(path: Path | None) -> None:
    """Refuses, before any work is done, a page that cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"--html {path} is a folder; name a file, such as {path / 'data.html'}")
    if not path.parent.is_dir():
        raise ConfigError(f"--html {path}: there is no folder {path.parent}; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"--html {path} cannot be written: no permission")


def _positive(text: str) -> int:
    if (number := _count(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1 row is looked at")
    return number


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _rows(text: str) -> list[int]:
    numbers = [_count(word) for word in text.split(",")]
    if 0 in numbers:
        raise argparse.ArgumentTypeError("rows are counted from 1")
    return numbers
