"""`tune ls`: the recipes and their configs, as a table or as JSON."""

import argparse
import json

from torchtune.cli.catalog import RECIPES, Recipe, configs, recipes_root

_WIDTH = 40


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `ls` to the command line."""
    parser = subparsers.add_parser("ls", description="List the recipes and the configs that come with each.")
    parser.add_argument("--json", action="store_true", help="print JSON, with the path of every file")
    parser.set_defaults(func=ls)


def ls(args: argparse.Namespace) -> None:
    """Prints the catalog."""
    if args.json:
        print(json.dumps([_entry(recipe) for recipe in RECIPES], indent=2))
        return
    print(_line("RECIPE", "CONFIG"))
    for recipe in RECIPES:
        names = _config_names(recipe) or [""]
        for first, name in zip([recipe.name, *[""] * len(names)], names):
            print(_line(first, name))


def _line(recipe: str, config: str) -> str:
    return f"{recipe:<{_WIDTH}} {config:<{_WIDTH}}".rstrip()


def _config_names(recipe: Recipe) -> list[str]:
    return [config.name for config in configs() if config.recipe == recipe.name]


def _entry(recipe: Recipe) -> dict:
    root = recipes_root()
    return {
        "recipe": recipe.name,
        "description": recipe.description,
        "path": str(root / recipe.file),
        "supports_distributed": recipe.supports_distributed,
        "configs": {config.name: str(root / config.file) for config in configs() if config.recipe == recipe.name},
    }
