"""Looks at the samples before training: what is found is said, or ends the run.

A fault of more than half of the samples is one of the setup, and an error; one of fewer is a property of the data, and
a warning. Two checks are otherwise: an id that the embedding does not have ends the run sooner or later, so one is
enough; and samples that training and validation share spoil a number and not the model. ``data_checks`` in the config
has the last word.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils.data import Dataset

from torchtune.config._data_checks import level_of
from torchtune.datasets._faults import OF_A_PART, Fault, Look, unknown_ids, validation_overlap
from torchtune.datasets._parts import Part, parts_of
from torchtune.errors import DataError

_log = logging.getLogger(__name__)

_LOOKED_AT = 1_000  # samples of a source that is not tokenised as a whole
_ALWAYS = {"unknown_ids": "error", "validation_overlap": "warn"}


@dataclass(frozen=True)
class Finding:
    """A fault that some samples have.

    Args:
        check: the name of the check.
        level: ``error``: training must not begin; ``warn``.
        count, total: of how many samples it is true, of how many that were looked at.
        text: what is wrong, and what can be done.
        example: file and line of a sample, and an excerpt.
    """

    check: str
    level: str
    count: int
    total: int
    text: str
    example: str

    def __str__(self) -> str:
        return f"{self.check}: {self.text}.\n  Example: {self.example}"


def findings_in(train: Iterable[Part], val: Iterable[Part], tokenizer: Any, checks: Mapping[str, Any]) -> list[Finding]:
    """What all checks find but that of ids, which needs a model.

    Args:
        checks: ``data_checks`` of the config.
    """
    train, val = ([Look(part, tokenizer) for part in parts] for parts in (train, val))
    found = []
    for look in (*train, *val):
        for name, check in OF_A_PART.items():
            found += _findings(name, look, partial(check, look), checks)
    for look in val:
        for other in train:
            found += _findings("validation_overlap", look, partial(validation_overlap, look, other), checks)
    return found


def unknown_ids_in(parts: Iterable[Part], tokenizer: Any, num_embeddings: int, checks: Mapping) -> list[Finding]:
    """Ids that a model with so many rows in its embedding does not have."""
    found = []
    for look in (Look(part, tokenizer) for part in parts):
        found += _findings("unknown_ids", look, partial(unknown_ids, look, num_embeddings), checks)
    return found


def parts_to_check(dataset: Dataset | None, name: str) -> list[Part]:
    """The parts of a dataset that is prepared as far as it can be; None has none."""
    return [] if dataset is None else parts_of(dataset, name, _LOOKED_AT)


def act_on(findings: Iterable[Finding]) -> None:
    """Log the warnings.

    Raises:
        DataError: there is an error.
    """
    errors = []
    for finding in findings:
        if finding.level == "error":
            errors.append(finding)
        else:
            _log.warning("Data: %s", finding)
    if errors:
        off = " ".join(f"data_checks.{name}=off" for name in dict.fromkeys(error.check for error in errors))
        advice = f"`tune data CONFIG` shows the samples. To train all the same: {off}"
        raise DataError("\n".join([*map(str, errors), advice]))


def _findings(
    name: str, look: Look, check: Callable[[], Iterator[Fault]], checks: Mapping[str, Any]
) -> Iterator[Finding]:
    said, part = level_of(checks, name), look.part
    for fault in check() if said != "off" else ():
        if count := len(fault.positions):
            level = said or _ALWAYS.get(name) or _by_share(count, fault.total)
            text = f"{count:,} of {fault.total:,} samples of {part.title} {fault.text}"
            example = f"{part.where(int(fault.positions[0]))}: {fault.excerpt}"
            yield Finding(name, level, count, fault.total, text, example)


def _by_share(count: int, total: int) -> str:
    return "error" if 2 * count > total else "warn"
