"""`tune cat`: a config as it stands in its file, or sorted by key."""

import argparse

from torchtune.cli import catalog
from torchtune.cli.cp import add_allow_component
from torchtune.errors import ConfigError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `cat` to the command line."""
    parser = subparsers.add_parser(
        "cat",
        description="Print a config: every key in it can be set by `tune run ... key=value`.",
        epilog="Example: tune cat llama3_2/1B_full_single_device",
    )
    parser.add_argument("config_name", metavar="config", help="name of a config (`tune ls`), or a path")
    parser.add_argument("--sort", action="store_true", help="sort the keys (comments are left out)")
    add_allow_component(parser)
    parser.set_defaults(func=cat)


def cat(args: argparse.Namespace) -> None:
    """Prints the config."""
    if catalog.recipe_row(args.config_name):
        raise ConfigError(f"{args.config_name} is a recipe; `tune ls` shows its configs, `tune cp` copies it.")
    config = catalog.find_config(args.config_name)
    if config.row is None:
        from torchtune.cli._configs import refuse_unsafe

        refuse_unsafe(config.path, args.allow_component)
    text = config.path.read_text(encoding="utf-8")
    print(_sorted(text) if args.sort else text, end="")


def _sorted(text: str) -> str:
    import yaml

    return yaml.safe_dump(yaml.safe_load(text), sort_keys=True, allow_unicode=True)
