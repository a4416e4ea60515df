"""The names of what is looked for in data before training, and how strictly each is taken."""

from collections.abc import Mapping
from typing import Any

from torchtune.config._problem import near
from torchtune.config._rules import Values

DATA_CHECKS = (
    "no_target",
    "cut_answer",
    "empty_answer",
    "missing_end",
    "double_bos",
    "dropped_message",
    "unknown_ids",
    "validation_overlap",
)
LEVELS = ("off", "warn", "error")


def level_of(checks: Mapping[str, Any], name: str) -> str | None:
    """What ``data_checks`` says of a check; None where it says nothing. YAML reads a bare ``off`` as False."""
    said = checks.get(name)
    return "off" if said is False else said


def data_checks(v: Values) -> tuple[str, str] | None:
    """The rule for the key ``data_checks``: known names, each with a level."""
    if not isinstance(v["data_checks"], Mapping):
        return "data_checks", (
            f"data_checks must be a mapping, found {v['data_checks']!r}; each check is set by its name, such as "
            f"data_checks.missing_end=off. The names are {', '.join(DATA_CHECKS)}."
        )
    for name, said in v["data_checks"].items():
        if name not in DATA_CHECKS:
            key, hint = f"data_checks.{name}", near(str(name), DATA_CHECKS)
            return key, f"data_checks has no {name!r}; its names are {', '.join(DATA_CHECKS)}.{hint}"
        if level_of({name: said}, name) not in LEVELS:
            key, hint = f"data_checks.{name}", near(str(said), LEVELS)
            return key, f"{key} must be one of {', '.join(LEVELS)}, found {said!r}.{hint}"
    return None
