"""Writes recipes/configs/<family>/<size>_<method>.yaml and <family>/evaluation.yaml, one file for each row.

python scripts/render_configs.py          writes the files
python scripts/render_configs.py --check  names the files that differ, and ends with 1 if there are any
"""

import re
import sys
from pathlib import Path
from string import Template
from typing import Any

from configs import template
from configs.kinds import Evaluation, Training
from configs.rows import ROWS

CONFIGS = Path(__file__).parents[1] / "recipes" / "configs"


def render(row: Training | Evaluation) -> str:
    """The text of one config file."""
    if isinstance(row, Evaluation):
        return _filled(template.EVALUATION, _common(row, "${checkpoint_dir}"))
    folder = "${checkpoint_dir}" if row.model.any else row.model.folder
    return _filled(template.TRAINING, {**_common(row, folder), **_trained(row, folder)})


def _common(row: Training | Evaluation, folder: str) -> dict[str, Any]:
    model = row.model
    return {
        **vars(model),
        **vars(row),
        "folder": model.folder,
        "ignore": f' --ignore-patterns "{model.skip}"' if model.skip else "",
        "model_folder": folder if model.any else None,
        "tokenizer_files": "\n  ".join(
            f"{argument}: {'/'.join(filter(None, (folder, path)))}" for argument, path in model.tokenizer_files
        ),
        "device": "null  # null: a GPU, where there is one" if model.any else "cuda",
    }


def _trained(row: Training, folder: str) -> dict[str, Any]:
    family, dot, builder = row.model.component.rpartition(".")
    return {
        "checkpoint_dir": row.model.folder if row.model.any else None,
        "weights_folder": folder,
        "chat_template": "null" if row.model.any else None,
        "today": '"2025-01-01"' if row.model.any else None,
        "recipe": row.recipe,
        "what": row.method.what,
        "where": _where(row),
        "run": _command(row),
        "builder": f"{family}{dot}{row.method.builder}{builder}",
        "device_word": "process" if row.distributed else "device",
        "optimizer_note": template.PAGED_NOTE if row.optimizer.startswith("bitsandbytes") else "",
        "lr_scheduler": _scheduler(row.warmup_steps),
    }


def _filled(text: str, values: dict[str, Any]) -> str:
    lines = text.splitlines(keepends=True)
    wanted = [line for line in lines if not any(values[name] is None for name in re.findall(r"\$(\w+)", line))]
    return Template("".join(wanted).replace("${", "$${")).substitute(values)


def _where(row: Training) -> str:
    if row.model.any:
        return "on one device or several"
    if not row.distributed:
        return "on one device"
    return "on several GPUs" if row.nodes == 1 else f"on {row.nodes} machines of {row.processes} GPUs"


def _command(row: Training) -> str:
    if row.model.any:
        return _anywhere(row)
    if not row.distributed:
        return f"tune run {row.recipe} --config {row.name}"
    meeting = "--rdzv-backend c10d --rdzv-endpoint HOST:29400 --rdzv-id ANY_NAME"
    nodes = "" if row.nodes == 1 else f"--nnodes {row.nodes} {meeting} "
    return f"tune run {nodes}--nproc_per_node {row.processes} {row.recipe} --config {row.name}"


def _anywhere(row: Training) -> str:
    given = f"--config {row.name} checkpoint_dir={row.model.folder}"
    many = f"tune run --nproc_per_node {row.processes} {row.method.recipe}_distributed {given}"
    return f"tune run {row.recipe} {given}\n#   {many}"


def _scheduler(warmup_steps: int | None) -> str:
    text = template.NO_SCHEDULER
    if warmup_steps is None:
        return text
    return text.replace("# ", "", 3).replace("#   ", "  ").replace("100", str(warmup_steps))


def main(arguments: list[str]) -> int:
    """Writes or checks all files; gives the exit code."""
    different = [row for row in ROWS if _text_of(row) != render(row)]
    for row in different:
        print(f"{row.name}.yaml")
        if "--check" not in arguments:
            path = CONFIGS / f"{row.name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render(row), encoding="utf-8")
    return int("--check" in arguments and bool(different))


def _text_of(row: Training | Evaluation) -> str | None:
    path = CONFIGS / f"{row.name}.yaml"
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
