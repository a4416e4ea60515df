"""`tune cp`: a copy of a recipe or config, to be changed."""

import argparse
import shutil
from pathlib import Path

from torchtune.cli import catalog
from torchtune.errors import ConfigError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `cp` to the command line."""
    parser = subparsers.add_parser(
        "cp",
        usage="tune cp <recipe|config> destination [OPTIONS]",
        description="Copy a recipe or a config to a file of your own.",
        epilog="Example: tune cp llama3_2/1B_full my_configs/first.yaml --make-parents",
    )
    parser.add_argument("file", help="name of a recipe or config (`tune ls`), or a path")
    parser.add_argument(
        "destination", help="file to write (the ending may be left out), or a folder that exists already"
    )
    parser.add_argument("-n", "--no-clobber", action="store_true", help="keep the destination if it exists")
    parser.add_argument("--make-parents", action="store_true", help="make the folders of the destination")
    add_allow_component(parser)
    parser.set_defaults(func=cp)


def add_allow_component(parser: argparse.ArgumentParser) -> None:
    """Adds the option that widens what a config may name."""
    parser.add_argument(
        "--allow-component",
        metavar="PKG",
        action="append",
        default=[],
        help="trust this package in `_component_`; may be given several times",
    )


def cp(args: argparse.Namespace) -> None:
    """Copies the file and says where to."""
    source = catalog.find(args.file)
    if source.row is None and source.path.suffix in (".yaml", ".yml"):
        from torchtune.cli._configs import refuse_unsafe

        refuse_unsafe(source.path, args.allow_component)
    target = _target(source.path, args.destination)
    if target.exists() and args.no_clobber:
        print(f"File already exists at {target.absolute()}, not overwriting.")
        return
    if target.exists() and target.samefile(source.path):
        raise ConfigError(f"{source.path} and {target} are the same file.")
    if args.make_parents:
        target.parent.mkdir(parents=True, exist_ok=True)
    _copy(source.path, target)
    print(f"Copied file to {target}")


def _target(source: Path, destination: str) -> Path:
    path = Path(destination).expanduser()
    if path.is_dir():
        return path / source.name
    if destination.endswith("/"):
        return path / source.name  # a folder that is yet to be made
    return path if path.suffix == source.suffix else path.with_name(path.name + source.suffix)


def _copy(source: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise ConfigError(
            f"Cannot write {target}: there is no folder {target.parent}.\nMake it first, or add --make-parents."
        )
    try:
        shutil.copyfile(source, target)
    except OSError as problem:
        raise ConfigError(f"Cannot write {target}: {problem.strerror}.") from problem
