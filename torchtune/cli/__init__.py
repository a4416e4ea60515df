"""The `tune` command: which sub-commands there are. Each loads when it is called, and none needs torch to answer."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from torchtune import __version__
from torchtune.cli._nearest import did_you_mean
from torchtune.utils.exit_codes import ending

_COMMANDS = {
    "download": "fetch a model from the Hugging Face Hub or Kaggle",
    "ls": "list the recipes and configs",
    "cp": "copy a recipe or config to change it",
    "cat": "print a config",
    "run": "run a recipe on one device or, with torchrun's options, on many",
    "validate": "check a config without running it",
    "data": "show what a config's data becomes, without a model",
    "chat": "talk to a model in the terminal",
    "export": "write a checkpoint in the format of another program",
    "upload": "publish a model on the Hugging Face Hub, with a card of how it was made",
    "demo": "train a tiny model on this machine, without network or GPU",
}

_EPILOG = """\
`tune <command> --help` says more. `tune --version` prints the version.

Fine-tune Llama 3.2 1B on one GPU:
  tune download meta-llama/Llama-3.2-1B-Instruct --output-dir /tmp/Llama-3.2-1B-Instruct
  tune run full_finetune_single_device --config llama3_2/1B_full_single_device
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; a fault ends the process with the exit code that its kind has."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with ending():
        try:
            _dispatch(arguments)
        except BrokenPipeError:  # `tune ls | head`: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)  # 128 + SIGPIPE, as other commands end


def commands() -> dict[str, str]:
    """The sub-commands of this installation and what each does in a few words."""
    folder = Path(__file__).parent
    return {name: text for name, text in _COMMANDS.items() if (folder / f"{name}.py").exists()}


def _dispatch(arguments: list[str]) -> None:
    first = arguments[0] if arguments else "--help"
    if first == "run":
        return import_module("torchtune.cli.run").run(arguments[1:])
    if first.startswith("-") and first not in ("-h", "--help", "--version"):
        return import_module("torchtune.cli.run").run(arguments)  # `tune --nnodes 1 --config C`, the oldest form
    if not first.startswith("-") and first not in commands():
        _parsers("")[0].error(_unknown_command(first))
    parser, of_commands = _parsers(first)
    if first not in of_commands:
        parser.parse_args(arguments or ["--help"])  # prints and ends
    args = of_commands[first].parse_intermixed_args(arguments[1:])  # options and settings in any order
    args.func(args)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints repeat what was typed, but no token in it."""

    def error(self, message: str) -> NoReturn:
        from torchtune.config import redact_text

        if "--config" in message.split() and any("config" in action.dest for action in self._actions):
            message += f"; the config stands there without it, as in `{self.prog} demo`"
        super().error(redact_text(message))


def _parsers(command: str) -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of `tune`, and those of its sub-commands: one complete, the others names with a line of help."""
    parser = _Parser(
        prog="tune",
        usage=f"tune [-h] {{{','.join(commands())}}} ...",
        description="Welcome to the torchtune CLI!",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"torchtune {__version__}", help=argparse.SUPPRESS)
    subparsers = parser.add_subparsers(title="commands", prog="tune")
    for name, text in commands().items():
        if name == command:
            import_module(f"torchtune.cli.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    return parser, subparsers.choices


def _unknown_command(name: str) -> str:
    from torchtune.cli.catalog import RECIPES

    if name in (recipe.name for recipe in RECIPES):
        return f"{name!r} is a recipe: tune run {name} --config CONFIG"
    return f"there is no command {name!r}.{did_you_mean(name, commands())} The commands are: {', '.join(commands())}."
