"""Which keys the ``${...}`` in a config's values mention."""

import re
from collections.abc import Mapping
from typing import Any

_REFERENCE = re.compile(r"\$\{(?:oc\.(?:select|dict\.\w+):)?\s*\.*([A-Za-z_]\w*)(?!\w*[.\w]*:)")


def references(value: Any) -> set[str]:
    """First names of everything that ``${...}`` mentions anywhere in ``value``."""
    if isinstance(value, Mapping):
        return set().union(*map(references, value.values()))
    if isinstance(value, list):
        return set().union(*map(references, value))
    return set(_REFERENCE.findall(value)) if isinstance(value, str) and "${" in value else set()
