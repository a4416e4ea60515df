"""Writes recipes/configs/<family>/<size>_<method>.yaml from one template and one row per config.

python scripts/render_configs.py          writes the files
python scripts/render_configs.py --check  names the files that differ, and ends with 1 if there are any
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template

CONFIGS = Path(__file__).parents[1] / "recipes" / "configs"


@dataclass(frozen=True)
class Model:
    """One pretrained model: where it comes from and which parts read it.

    Args:
        repo: its repository on the Hugging Face Hub.
        skip: the weight files of the repository that are not needed.
        component: the builder below `torchtune.models`.
        tokenizer: the tokenizer builder below `torchtune.models`.
        tokenizer_file: path below the model's folder.
        model_type: how checkpoints of this kind are named in configs.
        weights: what the folder holds the weights as.
        checkpoint_folder: path of the weights below the model's folder.
        tied: whether its output projection is its embedding, so that it gets no adapter.
    """

    title: str
    repo: str
    component: str
    model_type: str
    skip: str = "original/consolidated*"
    tokenizer: str = "llama3.llama3_tokenizer"
    tokenizer_file: str = "original/tokenizer.model"
    checkpointer: str = "FullModelHFCheckpointer"
    weights: str = "*.safetensors or *.bin"
    checkpoint_folder: str = ""
    tied: bool = False

    @property
    def folder(self) -> str:
        return f"/tmp/{self.repo.split('/')[1]}"


_SENTENCEPIECE = {"tokenizer": "llama2.llama2_tokenizer", "tokenizer_file": "tokenizer.model", "skip": "*.bin"}
_META = {
    "skip": "*.safetensors",
    "checkpointer": "FullModelMetaCheckpointer",
    "weights": "consolidated.*.pth",
    "checkpoint_folder": "/original",
}

LLAMA2_7B = Model("Llama 2 7B", "meta-llama/Llama-2-7b-hf", "llama2.llama2_7b", "LLAMA2", **_SENTENCEPIECE)
LLAMA2_13B = Model("Llama 2 13B", "meta-llama/Llama-2-13b-hf", "llama2.llama2_13b", "LLAMA2", **_SENTENCEPIECE)
LLAMA2_70B = Model("Llama 2 70B", "meta-llama/Llama-2-70b-hf", "llama2.llama2_70b", "LLAMA2", **_SENTENCEPIECE)
CODE_LLAMA2_7B = Model(
    "Code Llama 2 7B", "codellama/CodeLlama-7b-hf", "code_llama2.code_llama2_7b", "LLAMA2", **_SENTENCEPIECE
)
LLAMA3_8B = Model("Llama 3 8B", "meta-llama/Meta-Llama-3-8B-Instruct", "llama3.llama3_8b", "LLAMA3", **_META)
LLAMA3_70B = Model("Llama 3 70B", "meta-llama/Meta-Llama-3-70B-Instruct", "llama3.llama3_70b", "LLAMA3")
LLAMA3_1_8B = Model("Llama 3.1 8B", "meta-llama/Meta-Llama-3.1-8B-Instruct", "llama3_1.llama3_1_8b", "LLAMA3")
LLAMA3_1_70B = Model("Llama 3.1 70B", "meta-llama/Meta-Llama-3.1-70B-Instruct", "llama3_1.llama3_1_70b", "LLAMA3")
LLAMA3_1_405B = Model(
    "Llama 3.1 405B",
    "meta-llama/Meta-Llama-3.1-405B-Instruct",
    "llama3_1.llama3_1_405b",
    "LLAMA3",
    skip="original/*consolidated*",
    tokenizer_file="original/mp8/tokenizer.model",
)
LLAMA3_2_1B = Model("Llama 3.2 1B", "meta-llama/Llama-3.2-1B-Instruct", "llama3_2.llama3_2_1b", "LLAMA3_2", tied=True)
LLAMA3_2_3B = Model("Llama 3.2 3B", "meta-llama/Llama-3.2-3B-Instruct", "llama3_2.llama3_2_3b", "LLAMA3_2", tied=True)
LLAMA3_3_70B = Model("Llama 3.3 70B", "meta-llama/Llama-3.3-70B-Instruct", "llama3_3.llama3_3_70b", "LLAMA3")

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
class Row:
    """One config: a model, and what differs from the template's usual values. A line without a value is left out."""

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
        return METHODS[self.name.split("/")[1].split("_")[1]]


def _row(name: str, model: Model, distributed: bool, values: dict) -> Row:
    family, rest = name.split("/")
    return Row(name, model, distributed, **{"output_dir": f"{family}_{rest.replace('_', '/', 1)}", **values})


def _single(name: str, model: Model, **values) -> Row:
    return _row(name, model, False, {"optimizer": PAGED_8BIT, "optimizer_in_bwd": True, **values})


def _many(name: str, model: Model, **values) -> Row:
    return _row(name, model, True, {"fused": True, "optimizer_in_bwd": False, "cpu_offload": False, **values})


def _adapters(name: str, model: Model, rank: int = 8, **values) -> Row:
    """A row on one device if its name says so, else on many."""
    distributed = not name.endswith("_single_device")
    of_the_row = {
        "apply_lora_to_output": None if model.tied else False,
        "lora_rank": rank,
        "lora_alpha": 2 * rank,
        "cpu_offload": False if distributed else None,
    }
    return _row(name, model, distributed, {**_ADAPTERS, **of_the_row, **values})


# The values are torchtune's, so that a run repeats what its users know.
_1B_3B = {"batch_size": 4}
_LOW_MEMORY = {"optimizer": PAGED, "activation_offloading": True}
_SLOW = {"lr": "1e-5", "warmup_steps": 100}
_70B = {"cpu_offload": True, "fused": False, "processes": 8}
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
_SMALL_LORA = {"rank": 64, **_1B_3B}
_LARGE_LORA = {"rank": 16, "dataset": "alpaca_dataset", "processes": 8}
_70B_LORA = {**_LARGE_LORA, "gradient_accumulation_steps": 1}
_ALONE = {"save_adapter_weights_only": True}
_KEPT = {"activation_checkpointing": False}

ROWS = (
    _many("llama2/7B_full", LLAMA2_7B, processes=4),
    _single("llama2/7B_full_low_memory", LLAMA2_7B, **_LOW_MEMORY, **_SLOW),
    _many("llama2/13B_full", LLAMA2_13B, processes=4),
    _single("code_llama2/7B_full_low_memory", CODE_LLAMA2_7B, **_LOW_MEMORY),
    _many("llama3/8B_full", LLAMA3_8B, processes=4),
    _single("llama3/8B_full_single_device", LLAMA3_8B, **_SLOW),
    _many("llama3/70B_full", LLAMA3_70B, **_70B),
    _many("llama3_1/8B_full", LLAMA3_1_8B),
    _single("llama3_1/8B_full_single_device", LLAMA3_1_8B),
    _many("llama3_1/70B_full", LLAMA3_1_70B, **_70B),
    _many(
        "llama3_2/1B_full",
        LLAMA3_2_1B,
        gradient_accumulation_steps=8,
        activation_checkpointing=False,
        **_1B_3B,
    ),
    _single(
        "llama3_2/1B_full_single_device",
        LLAMA3_2_1B,
        activation_checkpointing=False,
        **_1B_3B,
    ),
    _many("llama3_2/3B_full", LLAMA3_2_3B, gradient_accumulation_steps=8, **_1B_3B),
    _single("llama3_2/3B_full_single_device", LLAMA3_2_3B, **_1B_3B),
    _many("llama3_3/70B_full", LLAMA3_3_70B, **_70B),
    _many(
        "llama3_3/70B_full_multinode",
        LLAMA3_3_70B,
        output_dir="llama3_3_70B/full",
        **{**_70B, "cpu_offload": False, "fused": True},
        batch_size=4,
        max_seq_len=1024,
        packed=True,
        compile=True,
        nodes=2,
    ),
    _adapters("llama2/7B_lora_single_device", LLAMA2_7B),
    _adapters("llama2/7B_qlora_single_device", LLAMA2_7B),
    _adapters("llama2/13B_qlora_single_device", LLAMA2_13B),
    _adapters("llama2/7B_lora", LLAMA2_7B, **_KEPT),
    _adapters("llama2/7B_qlora", LLAMA2_7B),
    _adapters("llama2/13B_lora", LLAMA2_13B, apply_lora_to_output=True, lr="2e-4", processes=4, **_KEPT),
    _adapters("llama2/70B_lora", LLAMA2_70B, **_70B_LORA),
    _adapters("llama2/70B_qlora", LLAMA2_70B, **_70B_LORA),
    _adapters("code_llama2/7B_lora_single_device", CODE_LLAMA2_7B),
    _adapters("code_llama2/7B_qlora_single_device", CODE_LLAMA2_7B),
    _adapters("llama3/8B_lora_single_device", LLAMA3_8B),
    _adapters("llama3/8B_qlora_single_device", LLAMA3_8B),
    _adapters("llama3/8B_dora_single_device", LLAMA3_8B, use_dora=True),
    _adapters("llama3/8B_qdora_single_device", LLAMA3_8B, use_dora=True, quantize_base=True),
    _adapters("llama3/8B_lora", LLAMA3_8B, **_KEPT),
    _adapters("llama3/8B_dora", LLAMA3_8B, gradient_accumulation_steps=1, use_dora=True, **_KEPT),
    _adapters("llama3/70B_lora", LLAMA3_70B, **_70B_LORA),
    _adapters("llama3_1/8B_lora_single_device", LLAMA3_1_8B),
    _adapters("llama3_1/8B_qlora_single_device", LLAMA3_1_8B),
    _adapters("llama3_1/8B_lora", LLAMA3_1_8B, **_KEPT),
    _adapters("llama3_1/70B_lora", LLAMA3_1_70B, **_70B_LORA, **_ALONE),
    _adapters("llama3_1/405B_qlora", LLAMA3_1_405B, batch_size=1, **_LARGE_LORA, **_ALONE),
    _adapters("llama3_2/1B_lora_single_device", LLAMA3_2_1B, **_SMALL_LORA, **_KEPT),
    _adapters("llama3_2/1B_qlora_single_device", LLAMA3_2_1B, **_SMALL_LORA, **_KEPT),
    _adapters("llama3_2/1B_lora", LLAMA3_2_1B, **_SMALL_LORA, **_KEPT),
    _adapters("llama3_2/3B_lora_single_device", LLAMA3_2_3B, **_SMALL_LORA),
    _adapters("llama3_2/3B_qlora_single_device", LLAMA3_2_3B, **_SMALL_LORA),
    _adapters("llama3_2/3B_lora", LLAMA3_2_3B, **_SMALL_LORA, **_KEPT),
    _adapters("llama3_3/70B_lora", LLAMA3_3_70B, **_70B_LORA, **_ALONE),
    _adapters("llama3_3/70B_qlora", LLAMA3_3_70B, **_70B_LORA, **_ALONE),
)

TEMPLATE = """\
# $title: $what trained, $where.
# This file is rendered by scripts/render_configs.py; copy it with `tune cp $name my.yaml` to change it.
#
#   tune download $repo --output-dir $folder --ignore-patterns "$skip"
#   $run
#
# Any key can be changed on the command line: batch_size=1 optimizer.lr=1e-5 ~lr_scheduler

recipe: $recipe
output_dir: /tmp/torchtune/$output_dir  # checkpoints, logs and a copy of this config

# What is trained

model:
  _component_: torchtune.models.$builder
  lora_attn_modules: $lora_attn_modules  # which of the attention's projections; there is also k_proj
  apply_lora_to_mlp: $apply_lora_to_mlp
  apply_lora_to_output: $apply_lora_to_output
  lora_rank: $lora_rank  # a higher one can learn more, and takes more memory
  lora_alpha: $lora_alpha  # what an adapter gives is multiplied with lora_alpha / lora_rank
  lora_dropout: $lora_dropout
  use_dora: $use_dora  # the length of each row of an adapted weight is learnt as well
  quantize_base: $quantize_base  # the frozen weights are kept in 4 bits

tokenizer:
  _component_: torchtune.models.$tokenizer
  path: $folder/$tokenizer_file
  max_seq_len: $max_seq_len  # longer samples are cut; null takes them whole

checkpointer:
  _component_: torchtune.training.$checkpointer
  checkpoint_dir: $folder$checkpoint_folder
  # All of its weight files ($weights) are read; checkpoint_files: [...] names some.
  adapter_checkpoint: $adapter_checkpoint  # a file or folder with an adapter to start from; null makes a new one
  recipe_checkpoint: null  # set by resume_from_checkpoint
  output_dir: ${output_dir}
  model_type: $model_type
resume_from_checkpoint: False  # True goes on from the newest whole checkpoint in output_dir
save_every_n_steps: null  # optimizer steps; null saves at the end of each epoch only
save_adapter_weights_only: $save_adapter_weights_only  # True saves the adapters without the merged weights

# On what

dataset:
  _component_: torchtune.datasets.$dataset
  packed: $packed  # True fills every sequence with several samples that do not see each other
batch_size: $batch_size  # sequences per $device_word and forward pass
shuffle: True
seed: null  # null draws one and says which

# How

epochs: 1
max_steps_per_epoch: null  # null takes all of the dataset
gradient_accumulation_steps: $gradient_accumulation_steps  # forward passes per optimizer step
optimizer:
  _component_: $optimizer$optimizer_note
  lr: $lr
  fused: $fused
  weight_decay: $weight_decay
$lr_scheduler
optimizer_in_bwd: $optimizer_in_bwd  # True updates each parameter as its gradient appears: less memory, no clipping
loss:
  _component_: torchtune.modules.loss.LinearCrossEntropyLoss
clip_grad_norm: null  # the largest norm that all gradients together may have

# Where

device: cuda
dtype: bf16  # fp32 takes twice the memory
compile: $compile  # True is faster after a slower start
enable_activation_checkpointing: $activation_checkpointing  # True recomputes activations: less memory, a third slower
enable_activation_offloading: $activation_offloading  # True keeps activations in host memory; needs the line above
fsdp_cpu_offload: $cpu_offload  # True keeps parameters and optimizer state in host memory

# What is reported

log_level: INFO
metric_logger:
  _component_: torchtune.training.metric_logging.DiskLogger
  log_dir: ${output_dir}/logs
log_every_n_steps: 1
log_peak_memory_stats: True
profiler:
  _component_: torchtune.training.setup_torch_profiler
  enabled: False
  output_dir: ${output_dir}/profiling_outputs
  cpu: True
  cuda: True
  profile_memory: False
  with_stack: False
  record_shapes: True
  with_flops: False
  # Steps that are passed over, run untraced for warmth, and traced; then how often this is repeated
  wait_steps: 5
  warmup_steps: 3
  active_steps: 2
  num_cycles: 1
"""

_PAGED_NOTE = "  # GPU only: pip install bitsandbytes; else torch.optim.AdamW"
_NO_SCHEDULER = """\
# lr_scheduler:
#   _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
#   num_warmup_steps: 100"""


def render(row: Row) -> str:
    """The text of one config file."""
    recipe = f"{row.method.recipe}_{'distributed' if row.distributed else 'single_device'}"
    family, _, builder = row.model.component.partition(".")
    values = {
        **vars(row.model),
        **vars(row),
        "folder": row.model.folder,
        "recipe": recipe,
        "what": row.method.what,
        "where": _where(row),
        "run": _command(row, recipe),
        "builder": f"{family}.{row.method.builder}{builder}",
        "device_word": "process" if row.distributed else "device",
        "optimizer_note": _PAGED_NOTE if row.optimizer.startswith("bitsandbytes") else "",
        "lr_scheduler": _scheduler(row.warmup_steps),
    }
    lines = TEMPLATE.splitlines(keepends=True)
    wanted = [line for line in lines if not any(values[name] is None for name in re.findall(r"\$(\w+)", line))]
    # `${output_dir}` belongs to the config, the other names to the template.
    return Template("".join(wanted).replace("${output_dir}", "$${output_dir}")).substitute(values)


def _where(row: Row) -> str:
    if not row.distributed:
        return "on one device"
    return "on several GPUs" if row.nodes == 1 else f"on {row.nodes} machines of {row.processes} GPUs"


def _command(row: Row, recipe: str) -> str:
    if not row.distributed:
        return f"tune run {recipe} --config {row.name}"
    meeting = "--rdzv-backend c10d --rdzv-endpoint HOST:29400 --rdzv-id ANY_NAME"
    nodes = "" if row.nodes == 1 else f"--nnodes {row.nodes} {meeting} "
    return f"tune run {nodes}--nproc_per_node {row.processes} {recipe} --config {row.name}"


def _scheduler(warmup_steps: int | None) -> str:
    if warmup_steps is None:
        return _NO_SCHEDULER
    return _NO_SCHEDULER.replace("# ", "", 3).replace("#   ", "  ").replace("100", str(warmup_steps))


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


def _text_of(row: Row) -> str | None:
    path = CONFIGS / f"{row.name}.yaml"
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
