"""`${torchtune.file:demo/assets/model}` in a config: a file or folder that comes with the package, wherever it lies.

A config can then name such files and still be copied, checked and run from any folder.
"""

import re
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]
_FORM = re.compile(r"\$\{torchtune\.file:\s*([^{}]*?)\s*\}")

Fault = tuple[str, str]  # (dotted key, message)


def expand(value: Any, faults: list[Fault], key: str = "") -> Any:
    """Plain values with every such form replaced by the path; those that name no file are added to ``faults``."""
    if isinstance(value, dict):
        return {name: expand(inner, faults, f"{key}.{name}" if key else str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [expand(inner, faults, f"{key}.{i}") for i, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    absent = [name for name in _FORM.findall(value) if not _is_inside(name)]
    faults += [(key, f"{key}: the package torchtune has no file {name!r}") for name in absent]
    return _FORM.sub(lambda found: str(_PACKAGE / found[1]), value)


def _is_inside(name: str) -> bool:
    path = (_PACKAGE / name).resolve()
    return path.is_relative_to(_PACKAGE.resolve()) and path.exists()
