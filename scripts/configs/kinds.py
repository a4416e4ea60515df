"""The kinds of configs: what a row says of one, and what every row of a kind has in common."""

from dataclasses import dataclass
from typing import Any

from configs.models import ANY, Model

PAGED = "bitsandbytes.optim.PagedAdamW"
PAGED_8BIT = "bitsandbytes.optim.PagedAdamW8bit"


@dataclass(frozen=True)
class Method:
    """What is trained: in words, and what the names of its recipes and of its builders begin with."""

    what: str
    recipe: str = "lora_finetune"
    builder: str = "lora_"


# By the word that a config's name has after the size of the model.
METHODS = {
    "full": Method("all parameters", "full_finetune", ""),
    "lora": Method("LoRA adapters"),
    "qlora": Method("LoRA adapters on 4-bit weights (QLoRA)", builder="qlora_"),
    "dora": Method("DoRA adapters"),
    "qdora": Method("DoRA adapters on 4-bit weights (QDoRA)"),
}


@dataclass(frozen=True)
class Training:
    """A config that trains: what differs from the usual values. A line of the template without a value is left out."""

    name: str
    model: Model
    distributed: bool
    output_dir: str
    lora_attn_modules: str | None = None
    apply_lora_to_mlp: bool | None = None
    apply_lora_to_output: bool | None = None
    lora_rank: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float | None = None
    use_dora: bool | None = None
    quantize_base: bool | None = None
    adapter_checkpoint: str | None = None
    save_adapter_weights_only: bool | None = None
    dataset: str = "alpaca_dataset"
    batch_size: int = 2
    gradient_accumulation_steps: int = 1
    optimizer: str = "torch.optim.AdamW"
    lr: str = "2e-5"
    fused: bool | None = None
    weight_decay: float | None = None
    warmup_steps: int | None = None
    optimizer_in_bwd: bool | None = None
    max_seq_len: int | str = "null"
    packed: bool = False
    compile: bool = False
    activation_checkpointing: bool = True
    activation_offloading: bool = False
    cpu_offload: bool | None = None
    nodes: int = 1
    processes: int = 2

    @property
    def method(self) -> Method:
        return next(METHODS[word] for word in self.name.split("/")[1].split("_") if word in METHODS)

    @property
    def recipe(self) -> str:
        return f"{self.method.recipe}_{'distributed' if self.distributed else 'single_device'}"


@dataclass(frozen=True)
class Evaluation:
    """A config that scores a model on tasks."""

    name: str
    model: Model
    output_dir: str


def single(name: str, model: Model, **values: Any) -> Training:
    """All parameters, on one device."""
    return _training(name, model, False, {"optimizer": PAGED_8BIT, "optimizer_in_bwd": True, **values})


def many(name: str, model: Model, **values: Any) -> Training:
    """All parameters, on several devices."""
    return _training(name, model, True, {"fused": True, "optimizer_in_bwd": False, "cpu_offload": False, **values})


def anywhere(name: str, **values: Any) -> Training:
    """Any model, on one device or several."""
    adapted = name != "auto/full"
    common = {"fused": True, "optimizer_in_bwd": None if adapted else False, "cpu_offload": False, "max_seq_len": 2048}
    of_adapters = {**_ADAPTERS, "apply_lora_to_output": False, "lora_rank": 8, "lora_alpha": 16}
    return _training(name, ANY, False, {**(of_adapters if adapted else {}), **common, **values})


def adapters(name: str, model: Model, rank: int = 8, **values: Any) -> Training:
    """Adapters, on one device if the name says so, else on several."""
    distributed = not name.endswith("_single_device")
    of_the_row = {
        "apply_lora_to_output": None if model.tied else False,
        "lora_rank": rank,
        "lora_alpha": 2 * rank,
        "cpu_offload": False if distributed else None,
    }
    return _training(name, model, distributed, {**_ADAPTERS, **of_the_row, **values})


_ADAPTERS = {
    "lora_attn_modules": "[q_proj, v_proj, output_proj]",
    "apply_lora_to_mlp": True,
    "lora_dropout": 0.0,
    "adapter_checkpoint": "null",
    "save_adapter_weights_only": False,
    "dataset": "alpaca_cleaned_dataset",
    "gradient_accumulation_steps": 8,
    "lr": "3e-4",
    "fused": True,
    "weight_decay": 0.01,
    "warmup_steps": 100,
}


def _training(name: str, model: Model, distributed: bool, values: dict[str, Any]) -> Training:
    family, rest = name.split("/")
    folder = f"{family}_{rest.replace('_', '/', 1).replace('.', '_')}"
    return Training(name, model, distributed, **{"output_dir": folder, **values})
