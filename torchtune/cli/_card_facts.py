"""What files tell of how a model was made: its own folder, the run that wrote it, and the base that it came from."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from torchtune.cli._upload_files import ADAPTER_CONFIG, CARD, read_object
from torchtune.cli.download import REPO_ID_FILE
from torchtune.config import redact
from torchtune.errors import ConfigError

_CONFIG = "torchtune_config.yaml"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_FRONT_MATTER = re.compile(r"---\s*\n(.*?)\n---\s*(\n|$)", re.DOTALL)
_FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")


@dataclass(frozen=True)
class Data:
    """A dataset: its name, and whether that is one of the Hub."""

    name: str
    on_hub: bool


@dataclass(frozen=True)
class Losses:
    """Pairs of a step and the loss measured there; None where there is none."""

    first: tuple[int, float] | None = None
    last: tuple[int, float] | None = None
    validation: tuple[int, float] | None = None


@dataclass(frozen=True)
class Score:
    """One number of an evaluation with lm_eval.

    Args:
        shots: worked examples in the prompt.
        samples: questions that it is the mean over.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    shots: int | None
    samples: int | None


@dataclass(frozen=True)
class Facts:
    """All that is known; what is not is None or empty.

    Args:
        base: name on the Hub of the model that was trained.
        license: the keys of the base's card that state its licence.
        adapter: PEFT's ``adapter_config.json``.
        config: the run's config, without secrets.
        state: what the run noted with this checkpoint: steps, epochs, processes.
        read_with: the programs that read an export back, with their versions.
    """

    base: str | None
    license: Mapping[str, str]
    adapter: Mapping[str, Any] | None
    config: Mapping[str, Any]
    state: Mapping[str, Any]
    losses: Losses
    data: tuple[Data, ...]
    scores: tuple[Score, ...]
    read_with: Mapping[str, str]
    has_chat_template: bool


def gather(folder: Path) -> Facts:
    """What is known of the model in a folder, whose path is absolute."""
    checkpoint = _checkpoint(folder)
    run = checkpoint.parent
    config = _config(run / _CONFIG)
    adapter = _json(folder / ADAPTER_CONFIG) or _json(folder / "adapter" / ADAPTER_CONFIG) or None
    homes = [folder, *_base_folders(config)]
    state = {**_made(checkpoint), **_json(run / "recipe_state" / checkpoint.name / "state.json")}
    return Facts(
        base=_base(homes, adapter, is_merged=(folder / "config.json").is_file()),
        license=next(filter(None, map(_license, homes)), {}),
        adapter=adapter,
        config=config,
        state=state,
        losses=_losses(run / "metrics.jsonl", state.get("step")),
        data=tuple(_data(config.get("dataset"))),
        scores=tuple(_scores(folder)),
        read_with=_json(folder / "verify.json").get("read_with", {}),
        has_chat_template=(folder / "chat_template.jinja").is_file()
        or "chat_template" in _json(folder / "tokenizer_config.json"),
    )


def _checkpoint(folder: Path) -> Path:
    """The folder that a run wrote: this one, or the one that this is an export of."""
    source = Path(str(_made(folder).get("source", "")))
    if source.is_absolute() and source.exists():
        return source if source.is_dir() else source.parent
    return folder


def _made(folder: Path) -> Mapping[str, Any]:
    """What the maker of a folder noted with it."""
    return _json(folder / "MANIFEST.json").get("facts", {})


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none."""
    try:
        found = read_object(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _config(path: Path) -> Mapping[str, Any]:
    from torchtune.config._yaml import read

    try:
        return redact(read(path)[0])
    except ConfigError:
        return {}


def _base_folders(config: Mapping[str, Any]) -> Iterator[Path]:
    """Where the base was read from, if that is still there; Meta's files lie in a folder of the download."""
    checkpointer = config.get("checkpointer")
    given = checkpointer.get("checkpoint_dir") if isinstance(checkpointer, Mapping) else None
    if isinstance(given, str):
        folder = Path(given).expanduser()
        yield from (folder, folder.parent) if folder.name == "original" else (folder,)


def _base(homes: list[Path], adapter: Mapping[str, Any] | None, is_merged: bool) -> str | None:
    """An adapter fits only the weights that it names; merged weights come from the first model of a chain of runs."""
    names = [(adapter or {}).get("base_model_name_or_path")]
    if adapter is None or is_merged:
        names += [_json(home / REPO_ID_FILE).get("repo_id") for home in homes]
    return next((name for name in names if _is_hub_name(name)), None)


def _is_hub_name(name: Any) -> bool:
    return isinstance(name, str) and _HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def _license(home: Path) -> dict[str, str]:
    """The licence that a model's card states: https://huggingface.co/docs/hub/model-cards#model-card-metadata."""
    try:
        head = _FRONT_MATTER.match((home / CARD).read_text(encoding="utf-8"))
        said = yaml.safe_load(head[1]) if head else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    said = said if isinstance(said, dict) and said.get("license") else {}
    return {key: str(said[key]) for key in ("license", "license_name", "license_link") if said.get(key)}


def _losses(path: Path, last_step: int | None) -> Losses:
    """Up to the checkpoint's step. The file may hold earlier runs, and steps that ran again after one was resumed."""
    loss: dict[int, float] = {}
    validation: dict[int, float] = {}
    for line in _lines(path):
        step = line.get("step", 0)
        if "loss" in line and loss and step <= min(loss):  # a run began anew in this folder
            loss, validation = {}, {}
        for name, kept in (("loss", loss), ("val_loss", validation)):
            if isinstance(line.get(name), float) and (last_step is None or step <= last_step):
                kept[step] = line[name]
    return Losses(*(f(known.items()) if known else None for f, known in ((min, loss), (max, loss), (max, validation))))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # the run ended while it wrote
                continue


def _data(node: Any) -> Iterator[Data]:
    """The datasets in a config's node: one, a list, or one that joins others."""
    if isinstance(node, list):
        for each in node:
            yield from _data(each)
    elif isinstance(node, Mapping) and "datasets" in node:
        yield from _data(node["datasets"])
    elif isinstance(node, Mapping):
        source = node.get("source") or _default_source(str(node.get("_component_", "")))
        files = node.get("data_files") if source in _FILE_FORMATS else source
        for name in files if isinstance(files, list) else filter(None, [files]):
            on_hub = source not in _FILE_FORMATS and _is_hub_name(name)
            yield Data(str(name) if on_hub else Path(str(name)).name, on_hub)


def _default_source(component: str) -> str | None:
    """The data that one of our builders takes when it is not told."""
    if not component.startswith("torchtune.datasets."):
        return None
    from torchtune.config import get_component

    try:
        default = inspect.signature(get_component(component)).parameters["source"].default
    except (ConfigError, KeyError, ValueError):
        return None
    return default if isinstance(default, str) else None


def _scores(folder: Path) -> list[Score]:
    """Of the evaluations whose results lie in a folder; a task's newest counts."""
    newest: dict[str, list[Score]] = {}
    for path in sorted(folder.glob("results_*.json")):
        found = _json(path)
        for task, values in found.get("results", {}).items():
            newest[task] = list(_of_task(task, values, found))
    return [score for scores in newest.values() for score in scores]


def _of_task(task: str, values: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Score]:
    samples = found.get("n-samples", {}).get(task, {}).get("effective")
    for key, value in values.items():
        metric, comma, method = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            stderr = values.get(f"{metric}_stderr,{method}")
            shown = metric if method == "none" else f"{metric} ({method})"
            error = stderr if isinstance(stderr, float) else None
            yield Score(task, shown, float(value), error, found.get("n-shot", {}).get(task), samples)
