"""A finished run of a tiny model, small enough to be made for every test, with all that a publisher could trip over."""

import json
import shutil
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from tiny_run import make_model

from torchtune.training.checkpointing import commit_folder

BASE = "meta-llama/Llama-3.2-1B-Instruct"
BASE_CARD = "---\nlanguage: en\nlicense: llama3.2\n---\n\n# The base's own card\n"
ADAPTER = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": BASE, "r": 4, "lora_alpha": 8,
    "target_modules": ["v_proj", "q_proj"], "lora_dropout": 0.0, "use_dora": False, "use_rslora": False,
}  # fmt: skip
CONFIG = {
    "recipe": "lora_finetune_single_device",
    "model": {"_component_": "torchtune.models.llama3_2.lora_llama3_2_1b", "lora_rank": 64},
    "checkpointer": {"checkpoint_dir": "/nowhere/base"},
    "dataset": {
        "_component_": "torchtune.datasets.alpaca_dataset",
        "source": "json",
        "data_files": "/private/mine.jsonl",
    },
    "optimizer": {"_component_": "torch.optim.AdamW", "lr": 0.0003},
    "batch_size": 2,
    "gradient_accumulation_steps": 4,
    "epochs": 3,
    "dtype": "bf16",
}
SCORES = {
    "results": {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.125, "acc_norm,none": 0.25}},
    "n-shot": {"arc_easy": 5},
    "n-samples": {"arc_easy": {"original": 2376, "effective": 16}},
}


def make_run(root: Path, *, adapter: bool = True, config: dict | None = None) -> Path:
    """A run's folder with the checkpoint ``epoch_0``; gives the latter."""
    base = make_model(root.with_name(f"{root.name}-base"))
    commit_folder(root / "epoch_0", lambda to: _fill(to, base, adapter), facts={"step": 4, "run": 1})
    (root / "torchtune_config.yaml").write_text(yaml.safe_dump(config or CONFIG, sort_keys=False))
    write_metrics(root, [5.0, 4.0, 3.5, 3.25, 3.0], {4: 3.3})
    state = root / "recipe_state" / "epoch_0"
    state.mkdir(parents=True)
    (state / "state.json").write_text(json.dumps({"step": 4, "epoch": 1, "epochs": 3, "samples_per_step": 16}))
    return root / "epoch_0"


def write_metrics(root: Path, losses: list[float], validation: dict[int, float]) -> None:
    """``metrics.jsonl`` of steps 1, 2, ...; appends."""
    lines = [{"step": step, "loss": loss, "lr": 1e-3} for step, loss in enumerate(losses, 1)]
    lines += [{"step": step, "val_loss": loss} for step, loss in validation.items()]
    with (root / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _fill(to: Path, base: Path, adapter: bool) -> None:
    shutil.copytree(base, to, dirs_exist_ok=True)
    (to / "README.md").write_text(BASE_CARD)
    (to / "original_repo_id.json").write_text(json.dumps({"repo_id": BASE}))
    if adapter:
        write_adapter(to / "adapter")
        torch.save({}, to / "adapter_model.pt")


def write_adapter(folder: Path, **settings: object) -> None:
    """PEFT's two files."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**ADAPTER, **settings}))
    weights = {"q": (4, 64), "v": (4, 64)}
    tensors = {
        f"base_model.model.model.layers.0.self_attn.{name}_proj.lora_A.weight": torch.zeros(shape)
        for name, shape in weights.items()
    }
    tensors |= {
        f"base_model.model.model.layers.0.self_attn.{name}_proj.lora_B.weight": torch.zeros(rows, 4)
        for name, rows in {"q": 64, "v": 32}.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
