"""`tune validate`: all faults of a config at once, without running it."""

import argparse
import sys

from torchtune.cli import catalog
from torchtune.cli.cp import add_allow_component
from torchtune.errors import ConfigError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `validate` to the command line."""
    parser = subparsers.add_parser(
        "validate",
        description="Check a config: its keys, their types and combinations, its components and their arguments.",
        epilog="Example: tune validate my_config.yaml batch_size=4",
    )
    parser.add_argument("config", help="name of a config (`tune ls`), or a path")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to check with it, as in `tune run`")
    parser.add_argument("--recipe", help="the recipe it is for, when neither its key `recipe` nor `tune ls` says so")
    add_allow_component(parser)
    parser.set_defaults(func=validate)


def validate(args: argparse.Namespace) -> None:
    """Prints the faults, or that there are none."""
    from torchtune.cli._configs import examine

    config = catalog.find_config(args.config)
    named = _recipe(args.recipe, config)
    recipe = named or catalog.guess_recipe(config)
    words = [*args.overrides, *catalog.naming(named, config)]
    schema = recipe.schema if recipe else None
    found, notes = examine(config.path, words, schema, args.allow_component)
    if named is None:
        checked = f"checked as one for {recipe.name}" if recipe else "so only components are checked"
        print(f"Note: no recipe is named (--recipe, or a key `recipe`), {checked}.", file=sys.stderr)
    if found:
        print(*found, sep="\n", file=sys.stderr)
        print(f"{len(found)} fault{'s' if len(found) > 1 else ''} found.", file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    for note in notes:
        print(f"Note: {note}.", file=sys.stderr)
    print("Config is well-formed!")


def _recipe(name: str | None, config: catalog.Found) -> catalog.Recipe | None:
    if name is None:
        return catalog.recipe_of(config)
    recipe = catalog.find_recipe(name)
    catalog.check_pair(recipe, config)
    return recipe.row if isinstance(recipe.row, catalog.Recipe) else None
