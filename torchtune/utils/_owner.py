"""Whose code a file is: this package's, a library's or the user's own."""

import os
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_OURS = tuple(f"{_PACKAGE.with_name(name)}{os.sep}" for name in (_PACKAGE.name, "recipes", "llama_recipes"))
# Those of the system, of the user and of the Python that a virtual environment was made from.
_LIBRARY_FOLDERS = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))


@cache
def _libraries() -> tuple[str, ...]:
    """How the paths of libraries begin; asked for when they are needed, since Python takes a while to tell."""
    import sysconfig

    return "<", *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def is_ours(file: str) -> bool:
    """Whether a source file belongs to torchtune, its recipes or llama_recipes."""
    return file.startswith(_OURS)


def is_users(file: str) -> bool:
    """Whether a source file belongs neither to this package nor to Python or an installed library."""
    is_library = file.startswith(_libraries()) or any(folder in file for folder in _LIBRARY_FOLDERS)
    return not (is_library or is_ours(file))
