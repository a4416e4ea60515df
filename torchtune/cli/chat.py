"""`tune chat`: talk to a checkpoint in the terminal, or to two of them one after the other."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torchtune.errors import DataError

if TYPE_CHECKING:
    from torchtune.chat import Dialogue

_COMMANDS = """\
in the dialogue:
  /system TEXT   begin anew with this system message; without TEXT, with none
  /reset         begin anew
  /quit          leave, as the end of the input does; Ctrl-C ends an answer
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `chat` to the command line."""
    parser = subparsers.add_parser(
        "chat",
        usage="tune chat PATH [--compare BASE] [OPTIONS]",
        description="Talk to a model in the terminal, in the form that comes with its tokenizer.",
        epilog=f"{_COMMANDS}\nExample: tune chat out/epoch_0 --compare /tmp/Llama-3.2-1B-Instruct",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, help="a downloaded model, what a run wrote (epoch_N), or an adapter")
    parser.add_argument("--compare", type=Path, metavar="BASE", help="a model that answers each message first")
    parser.add_argument("--base", type=Path, metavar="DIR", help="model below an adapter; default: as its config says")
    parser.add_argument(
        "--temperature", type=float, default=0.6, metavar="T", help="0: the likeliest answer; default: %(default)s"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.9,
        metavar="P",
        help="share of probability that is drawn from; default: %(default)s",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=1024, metavar="N", help="longest answer; default: %(default)s"
    )
    parser.add_argument("--device", help="cpu, cuda, ...; default: the best there is")
    parser.set_defaults(func=chat)


def chat(args: argparse.Namespace) -> None:
    """Asks for messages and prints answers until there are no more."""
    dialogues = _dialogues(args)
    for line in _lines():
        command, _, rest = line.partition(" ")
        if command == "/quit":
            break
        if command in ("/system", "/reset"):
            for dialogue in dialogues.values():
                dialogue.system = rest.strip() if command == "/system" else dialogue.system
                dialogue.begin()
        elif line.startswith("/"):
            print(f"There is no {command}.\n{_COMMANDS}")
        elif line.strip():
            for name, dialogue in dialogues.items():
                _answer(name, dialogue, line, args.max_new_tokens)


def _dialogues(args: argparse.Namespace) -> "dict[str, Dialogue]":
    """By what is printed before their answers."""
    from torchtune.chat import Dialogue

    sampling = {"temperature": args.temperature, "top_p": args.top_p}
    tuned = Dialogue(args.path, args.base, args.device, **sampling)
    if args.compare is None:
        return {"": tuned}
    return {"base: ": Dialogue(args.compare, None, args.device, **sampling), "tuned: ": tuned}


def _lines() -> Iterator[str]:
    terminal = sys.stdin.isatty()
    while True:
        try:
            yield input("> " if terminal else "")
        except EOFError:
            return


def _answer(name: str, dialogue: "Dialogue", text: str, max_new_tokens: int) -> None:
    print(name, end="")
    try:
        for piece in dialogue.answer(text, max_new_tokens):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" ...", end="")
    except DataError as e:
        print(f"({e}; /reset begins anew)", end="")
    print(flush=True)
