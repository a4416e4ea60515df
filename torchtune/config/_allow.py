"""Which components a config may name: judged by where an object is defined, before anything new is imported."""

import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

_OURS = ("torchtune", "llama_recipes.datasets")
ALLOWED = (*_OURS, "torch.optim", "torch.nn", "torch.utils.data", "torchao", "bitsandbytes")
ENVIRONMENT = "TUNE_ALLOW_COMPONENTS"
FLAG = "--allow-component"

# Inside the allowed packages, but able to run commands, import by name or read pickles for whoever writes the config.
_GADGETS = (
    "torchtune.cli", "torchtune.config", "torchtune.errors", "llama_recipes.datasets._custom.get_custom_dataset",
    "torch.utils.data.datapipes", "torch.utils.data.graph", "torch.utils.data._utils.worker",
    "torch.utils.data._utils.pin_memory", "torch.utils.data.backward_compatibility",
    "torchao._models", "torchao.testing", "torchao.utils",
    "bitsandbytes.__main__", "bitsandbytes.cextension", "bitsandbytes.diagnostics", "bitsandbytes.utils",
)  # fmt: skip
# Functions (classes are judged by module alone) that a config may call in packages that are not ours.
_FUNCTIONS = ("torch.nn.functional", "torch.nn.init", "torch.utils.data._utils.collate", "torchao")
_FUNCTION_NAMES = ("torch.utils.data.dataset.random_split",)
_UNWANTED = re.compile(r"^(_|load|save|exec|eval|run|spawn|import|compile|register|benchmark|download)")


def extra_allowed(more: Iterable[str] = ()) -> tuple[str, ...]:
    """Packages that the user trusts: from the command line (``more``) and the environment, never from a config."""
    named = [*more, *os.environ.get(ENVIRONMENT, "").split(",")]
    return tuple(n.strip().rstrip(".") for n in named if n.strip() and "*" not in n)


def within(module: str, packages: Iterable[str]) -> bool:
    """Whether a dotted name is one of ``packages`` or lies inside one."""
    return any(module == p or module.startswith(p + ".") for p in packages)


def may_import(dotted: str, more: Iterable[str] = ()) -> bool:
    """Whether a dotted path may be looked up at all, which imports its module part."""
    if within(dotted, extra_allowed(more)):
        return True
    if within(dotted, _GADGETS) or any(part.startswith("__") for part in dotted.split(".")):
        return False
    return within(dotted, ALLOWED) or local_root(dotted.partition(".")[0]) is not None


def may_use(module: str, name: str, kind: str, more: Iterable[str] = ()) -> bool:
    """Whether an object defined as ``name`` in ``module`` may be called by a config.

    Args:
        name: its qualified name; a dot means that it is an attribute of a class.
        kind: "class", "function" or anything else.
    """
    if within(f"{module}.{name}", extra_allowed(more)):
        return kind in ("class", "function")
    if kind not in ("class", "function") or within(f"{module}.{name}", _GADGETS):
        return False
    if local_root(module.partition(".")[0]) is not None or within(module, _OURS):
        return True
    if not within(module, ALLOWED) or "." in name or name.startswith("_"):
        return False
    if kind == "class":
        return True
    listed = within(module, _FUNCTIONS) or f"{module}.{name}" in _FUNCTION_NAMES
    return listed and not _UNWANTED.match(name)


def refusal(path: str, found: str | None = None) -> str:
    """The sentence for a component that a config may not name; ``found`` says what it turned out to be."""
    what = f"{path} is {found}, which" if found and found != path else path
    root = (found or path).partition(".")[0]
    hint = shadow_hint(path.partition(".")[0])
    return (
        f"{what} is not something that a config may run: components come from {', '.join(ALLOWED)} or from a Python "
        f"file under the current folder.{hint} If you trust it, add `{FLAG} {root}` to the command line."
    )


def local_root(top: str) -> Path | None:
    """The folder or file under the current folder that ``import top`` means, unless an installed package has the name.

    A file such as ./random.py must not stand in for the standard library's, nor ./torch.py for torch.
    """
    return _local_root(top, *here(), tuple(sys.path))


def here() -> tuple[str, int]:
    """The current folder and the time of its last change, as a key for what was found in it."""
    cwd = os.getcwd()
    return cwd, os.stat(cwd).st_mtime_ns


@lru_cache(maxsize=256)
def _local_root(top: str, cwd: str, changed: int, path: tuple[str, ...]) -> Path | None:
    candidate = _candidate(top, cwd)
    if candidate is None or _taken(top, candidate, cwd, path):
        return None
    return candidate


def _candidate(top: str, cwd: str) -> Path | None:
    if not top.isidentifier():
        return None
    folder, file = Path(cwd, top), Path(cwd, f"{top}.py")
    if (folder / "__init__.py").is_file():
        return folder
    return file if file.is_file() else folder if folder.is_dir() else None


def _taken(top: str, candidate: Path, cwd: str, path: tuple[str, ...]) -> bool:
    """Whether something other than ``candidate`` answers to the name when the current folder is left out."""
    if top in sys.stdlib_module_names or top in ("torchtune", "torch", "torchao", "bitsandbytes"):
        return True
    elsewhere = [p for p in path if os.path.realpath(p or cwd) != os.path.realpath(cwd)]
    spec = PathFinder.find_spec(top, elsewhere) or _installed_spec(top)
    if spec is None or spec.origin is None:
        return False  # nothing, or a bare folder of the same name, which a real file goes before
    return os.path.realpath(spec.origin) not in (str(p.resolve()) for p in (candidate, candidate / "__init__.py"))


def _installed_spec(top: str):
    try:
        return find_spec(top)
    except ValueError:  # a module put into sys.modules by hand has no spec
        return None


def shadow_hint(top: str) -> str:
    """Why a local file of that name was not taken, if there is one."""
    candidate = _candidate(top, os.getcwd())
    if candidate is None or local_root(top) is not None or within(top, [a.partition(".")[0] for a in ALLOWED]):
        return ""
    return f" (./{candidate.name} has the name of an installed package; rename it to use it.)"
