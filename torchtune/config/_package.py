"""`${torchtune.file:demo/assets/model}` in a config: a file or folder that comes with the package, wherever it lies.

A config can then name such files and still be copied, checked and run from any folder.
"""

from pathlib import Path

from omegaconf import OmegaConf

from torchtune.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]


def package_file(name: str) -> str:
    """The path of a file or folder, given relative to the installed package."""
    path = (_PACKAGE / name).resolve()
    if not path.is_relative_to(_PACKAGE.resolve()) or not path.exists():
        raise ConfigError(f"the package torchtune has no file {name!r}")
    return str(path)


def register() -> None:
    """Makes the form known to OmegaConf."""
    OmegaConf.register_new_resolver("torchtune.file", package_file, replace=True)
