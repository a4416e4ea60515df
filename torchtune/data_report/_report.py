"""From a config to what there is to be known of its data."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchtune import config
from torchtune.config._data_checks import data_checks
from torchtune.config._rules import broken
from torchtune.config.schema import FinetuneConfig
from torchtune.data._loader import too_few_samples
from torchtune.data._stream_loader import TOO_SHORT
from torchtune.data_report._facts import Facts, facts_of
from torchtune.data_report._mixture import Mixture, mixture_of, sizes_of
from torchtune.data_report._samples import Sample, samples_of
from torchtune.datasets._gates import Finding, findings_in
from torchtune.datasets._parts import Part, parts_of
from torchtune.datasets._prepare import Preparation
from torchtune.errors import ConfigError, DataError
from torchtune.training.data import build_dataset, is_stream

_KEYS = (
    "tokenizer", "dataset", "dataset_val", "batch_size", "gradient_accumulation_steps", "max_steps_per_epoch",
    "max_steps", "mixture_stop", "data_workers", "data_checks",
)  # fmt: skip
_DataConfig = dataclasses.make_dataclass(
    "_DataConfig",
    [
        (f.name, f.type, dataclasses.field(default=f.default, default_factory=f.default_factory))
        for f in dataclasses.fields(FinetuneConfig)
        if f.name in _KEYS
    ],
    namespace={"contradictions": staticmethod(lambda values: broken((data_checks,), values))},
    frozen=True,
    kw_only=True,
)


@dataclass(frozen=True)
class Options:
    """What is looked at.

    Args:
        most: rows of each part.
        samples: how many of each part are shown, drawn with ``seed``.
        rows: these are shown instead, counted from 1.
        whole: of long samples all tokens, and not their ends alone.
    """

    most: int = 10_000
    samples: int = 3
    seed: int = 0
    rows: Sequence[int] = ()
    whole: bool = False


@dataclass(frozen=True)
class Columns:
    """The columns of the rows: those that the samples are made of, and those that are left."""

    used: list[str]
    unused: list[str]


@dataclass(frozen=True)
class PartReport:
    """A part: where it stands in the config, what it is read by and from, its counts and some samples.

    Args:
        columns: None where all are used, or nothing says which.
    """

    name: str
    source: str
    facts: Facts
    samples: list[Sample]
    columns: Columns | None


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of an epoch in one process.

    Args:
        samples: of an epoch; packs, where they are packed.
        is_exact: False: not all rows were looked at, and how many packs they make is reckoned from those that were.
        limit: ``max_steps_per_epoch``.
    """

    per_epoch: int
    samples: int
    is_exact: bool
    batch_size: int
    gradient_accumulation_steps: int
    limit: int | None


@dataclass(frozen=True)
class Report:
    """All of it.

    Args:
        batch_size: the config's.
        steps: None of a stream, whose length is not known.
        findings: what the checks before training find.
        errors: why training would not begin.
        notes: what else is worth knowing, such as files that are left out.
        mixture: None where the datasets have no weights.
        max_steps, max_steps_per_epoch: the config's.
    """

    config: str
    batch_size: int
    parts: list[PartReport]
    steps: Steps | None
    findings: list[Finding]
    errors: list[str]
    notes: list[str]
    mixture: Mixture | None
    max_steps: int | None
    max_steps_per_epoch: int | None


def report_on(path: Path, words: Sequence[str], schema: type | None, allow: Sequence[str], options: Options) -> Report:
    """What the data of a config becomes.

    Args:
        words: settings that change the config, as in `tune run`.
        schema: the keys of its recipe; None: only those that say what the data is are checked.
        allow: packages whose components may be used besides the usual ones.

    Raises:
        ConfigError: the config is wrong.
        DataError: the data or a row cannot be used; counts the rows and names them.
    """
    loaded = config.load(path, words)
    if schema is not None:
        config.read_config(loaded, schema, allow)
    cfg = config.typed(_DataConfig, loaded.cfg, loaded.positions, set(loaded.cfg))
    tokenizer, how = config.instantiate(cfg.tokenizer), Preparation(workers=cfg.data_workers)
    nodes = {key: getattr(cfg, key) for key in ("dataset", "dataset_val") if getattr(cfg, key) is not None}
    with _warnings() as notes:
        made = {key: build_dataset(node, tokenizer, cfg.mixture_stop) for key, node in nodes.items()}
    parts = {key: _parts(dataset, key, options.most, how) for key, dataset in made.items()}
    _check_rows(options.rows, [part for found in parts.values() for part in found])
    findings = findings_in(parts["dataset"], parts.get("dataset_val", []), tokenizer, cfg.data_checks)
    errors = [str(finding) for finding in findings if finding.level == "error"]
    reports = []
    for key, part in ((key, part) for key, found in parts.items() for part in found):
        facts = facts_of(part, tokenizer, cfg.batch_size, how, _model_limit(loaded.cfg))
        try:
            samples = samples_of(part, tokenizer, options.samples, options.seed, options.rows, whole=options.whole)
        except DataError as error:  # they cannot be packed
            errors, samples = [*errors, f"{part.title}: {error}"], []
        source = _sources(key, nodes[key]).get(part.name, "")
        reports.append(PartReport(part.title, source, facts, samples, _columns(part)))
    of_training = [report.facts for report in reports[: len(parts["dataset"])]]
    known = all(part.total is not None for part in parts["dataset"])
    sizes = sizes_of(parts["dataset"], of_training) if known else {}
    mixture = mixture_of(made["dataset"], "dataset", nodes["dataset"], cfg.mixture_stop, sizes)
    samples = mixture.samples if mixture else sum(sizes.values()) if known else None
    steps = None if is_stream(made["dataset"]) else _steps(parts["dataset"], samples, cfg)
    too_few = _too_few(samples, steps, cfg)
    if too_few and steps and not steps.is_exact:
        notes.append(f"By the rows that were looked at, {too_few}")
    elif too_few:
        errors.append(too_few)
    return Report(
        str(path), cfg.batch_size, reports, steps, findings, errors, notes, mixture, cfg.max_steps,
        cfg.max_steps_per_epoch,
    )  # fmt: skip


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What is warned of meanwhile, in place of the log."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    log = logging.getLogger("torchtune")
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)


def _model_limit(cfg: Mapping[str, Any]) -> int | None:
    """How long a sequence of the model may be, where the config says it."""
    model = cfg.get("model")
    limit = model.get("max_seq_len") if isinstance(model, Mapping) else None
    return limit if isinstance(limit, int) else None


def _columns(part: Part) -> Columns | None:
    unused = list(getattr(part.source, "unused_columns", ()))
    return Columns([name for name in part.source._rows[0] if name not in unused], unused) if unused else None


def _parts(dataset: Any, key: str, most: int, how: Preparation) -> list[Part]:
    found = parts_of(dataset, key, most, how)
    if not any(len(part.table) for part in found):
        raise DataError(f"{key} has no samples with tokens and labels, and only such can be shown")
    return found


def _check_rows(rows: Sequence[int], parts: Sequence[Part]) -> None:
    longest = max(len(part.source) for part in parts)
    if absent := [row for row in rows if row > longest]:
        raise ConfigError(f"there is no row {absent[0]:,} to show; there are {longest:,}")


def _sources(key: str, nodes: Any) -> dict[str, str]:
    """Part -> its component and what that reads."""
    named = {f"{key}[{i}]": node for i, node in enumerate(nodes)} if isinstance(nodes, list) else {key: nodes}
    return {name: ", ".join(_words(node)) for name, node in named.items()}


def _words(node: Mapping[str, Any]) -> list[str]:
    values = [str(node[name]) for name in ("source", "data_files", "split") if node.get(name) is not None]
    return [str(node["_component_"]).rpartition(".")[2], *map(config.redact_text, values)]


def _steps(parts: Sequence[Part], samples: int, cfg: Any) -> Steps:
    accumulation, limit = cfg.gradient_accumulation_steps, cfg.max_steps_per_epoch
    per_epoch = samples // (cfg.batch_size * accumulation)
    is_exact = all(part.packed is None or part.total == len(part.table) for part in parts)
    return Steps(min(per_epoch, limit or per_epoch), samples, is_exact, cfg.batch_size, accumulation, limit)


def _too_few(samples: int | None, steps: Steps | None, cfg: Any) -> str | None:
    """Why the data does not make a step in one process; None where it does, or nobody knows."""
    if samples is None:
        return None
    if steps is not None:
        return too_few_samples(samples, cfg.batch_size, cfg.gradient_accumulation_steps)
    needed = cfg.batch_size * cfg.gradient_accumulation_steps
    return TOO_SHORT.format(needed) if samples < needed else None
