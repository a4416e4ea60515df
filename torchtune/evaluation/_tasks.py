"""Which tasks there are, a run over some of them, and its results as a table and as files."""

import difflib
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.errors import ConfigError, DataError, MissingDependency
from torchtune.modules import TransformerDecoder

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.manager import TaskDict


def load_tasks(
    names: Sequence[str],
    include_path: str | None = None,
    *,
    seed: int = 1234,
    confirm_run_unsafe_code: bool = False,
) -> "TaskDict":
    """The named tasks, groups and tags of lm_eval, with their data.

    Args:
        names: also the paths of a task's YAML.
        include_path: a folder with the YAML of one's own tasks; they go before lm_eval's of the same name.
        seed: of the examples that prompts begin with; 1234 is lm_eval's own.
        confirm_run_unsafe_code: take tasks that execute what the model wrote.

    Raises:
        MissingDependency: lm_eval is not installed.
        ConfigError: a name is unknown, ``include_path`` is no folder, or a task is one that cannot be run.
        DataError: the data of a task cannot be read.
    """
    manager = _find(names, include_path)
    from datasets.exceptions import DatasetsError
    from lm_eval.defaults import DEFAULT_RANDOM_SEED

    random.seed(DEFAULT_RANDOM_SEED)  # some tasks shuffle their answers now (gpqa); lm_eval has this seed for it
    try:
        loaded = manager.load(list(names))
    except (DatasetsError, ConnectionError, FileNotFoundError) as error:
        raise DataError(f"the data of {', '.join(names)} cannot be read: {error}\n{_advice()}") from error
    for name, task in loaded["tasks"].items():
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"tasks: {name} shows images, and models are evaluated on text alone")
        if getattr(task, "UNSAFE_CODE", False) and not confirm_run_unsafe_code:
            raise ConfigError(f"tasks: {name} executes what the model wrote; confirm_run_unsafe_code: True allows that")
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
    return loaded


def _find(names: Sequence[str], include_path: str | None) -> "TaskManager":
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        install = 'pip install "lm_eval>=0.4.13,<0.5"'
        raise MissingDependency(f"evaluation needs lm_eval, which is not installed: {install}") from error
    if include_path is not None:
        if not Path(include_path).is_dir():
            raise ConfigError(f"include_path: there is no folder {include_path}; it should hold the YAML of your tasks")
        manager = TaskManager(include_path=include_path, include_defaults=False)
        if set(names) <= set(manager.all_subtasks):  # reading lm_eval's own, some 15,000, takes seconds
            return manager
    manager = TaskManager(include_path=include_path)
    _check_names(names, manager.all_tasks)
    return manager


def _check_names(names: Sequence[str], known: Sequence[str]) -> None:
    lines = []
    for name in names:
        if name in known or Path(name).is_file():
            continue
        near = difflib.get_close_matches(name, known, 3)
        lines.append(f"tasks: lm_eval has no task {name!r}." + (f" Did you mean {' or '.join(near)}?" if near else ""))
    if lines:
        raise ConfigError("\n".join([*lines, "`lm_eval ls tasks` lists them; include_path adds a folder of your own."]))


def _advice() -> str:
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return (
            "HF_HUB_OFFLINE is set, so only data that is in the cache already can be used: run once without it, or "
            "name tasks whose data are local files (include_path)."
        )
    return "Most tasks load their data from the Hugging Face Hub; your own (include_path) can name local files."


def evaluate(
    model: TransformerDecoder,
    tokenizer: Any,
    tasks: "TaskDict",
    *,
    max_seq_length: int,
    batch_size: int = 1,
    enable_kv_cache: bool = True,
    limit: float | None = None,
    apply_chat_template: bool = False,
    log_samples: bool = False,
) -> dict[str, Any]:
    """Scores of the model on the tasks, in the form that lm_eval gives and documents.

    Args:
        tasks: from :func:`load_tasks`.
        max_seq_length: tokens; of a longer text only the end is read.
        limit: samples per task, or below 1 the share of them; None takes all.
        apply_chat_template: put prompts as a dialogue, in the tokenizer's form.
        log_samples: keep every prompt, answer and score, under ``samples``.

    Raises:
        ConfigError: the model has not that many positions, or a task cannot be run with these settings.
        DataError: an answer that is to be scored is longer than ``max_seq_length``.
    """
    import lm_eval

    from torchtune.evaluation._model import HarnessModel

    begun = time.time()
    results = lm_eval.evaluate(
        HarnessModel(
            model, tokenizer, max_seq_length=max_seq_length, batch_size=batch_size, enable_kv_cache=enable_kv_cache
        ),
        tasks,
        limit=limit,
        apply_chat_template=apply_chat_template,
        fewshot_as_multiturn=True,
        log_samples=log_samples,
        confirm_run_unsafe_code=True,  # `load_tasks` has asked
    )
    return {**results, "date": begun, "lm_eval_version": version("lm_eval")}


def results_table(results: Mapping[str, Any]) -> str:
    """The scores of tasks, then those of groups where there are any, as Markdown tables."""
    from lm_eval.utils import make_table

    return "\n".join(make_table(results, column) for column in ("results", "groups") if column in results)


def save_results(results: Mapping[str, Any], folder: str | Path) -> Path:
    """Write ``results_<time>.json``, and ``samples_<task>_<time>.jsonl`` where samples were kept; gives the former."""
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    time = datetime.fromtimestamp(results["date"]).isoformat().replace(":", "-")
    path = folder / f"results_{time}.json"
    path.write_text(_json({k: v for k, v in results.items() if k != "samples"}, indent=2) + "\n", encoding="utf-8")
    for task, samples in results.get("samples", {}).items():
        lines = "".join(f"{_json(sample)}\n" for sample in samples)
        (folder / f"samples_{task.replace('/', '_')}_{time}.jsonl").write_text(lines, encoding="utf-8")
    return path


def _json(value: Any, **layout: Any) -> str:
    from lm_eval.utils import handle_non_serializable

    return json.dumps(value, default=handle_non_serializable, ensure_ascii=False, **layout)
