"""The one private name that copies of older recipes import."""

from typing import Any

from torchtune.config._resolve import get_component


def _get_component_from_path(path: str, caller_globals: dict[str, Any] | None = None) -> Any:
    """The function or class that a dotted path names, as ``instantiate`` would find it."""
    return get_component(path, caller_globals)
