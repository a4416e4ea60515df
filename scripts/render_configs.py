"""Writes recipes/configs/<family>/<size>_<method>.yaml from one template per layout and one row per config.

python scripts/render_configs.py          writes the files
python scripts/render_configs.py --check  names the files that differ, and ends with 1 if there are any
"""

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
CODE_LLAMA2_7B = Model(
    "Code Llama 2 7B", "codellama/CodeLlama-7b-hf", "code_llama2.code_llama2_7b", "LLAMA2", **_SENTENCEPIECE
)
LLAMA3_8B = Model("Llama 3 8B", "meta-llama/Meta-Llama-3-8B-Instruct", "llama3.llama3_8b", "LLAMA3", **_META)
LLAMA3_70B = Model("Llama 3 70B", "meta-llama/Meta-Llama-3-70B-Instruct", "llama3.llama3_70b", "LLAMA3")
LLAMA3_1_8B = Model("Llama 3.1 8B", "meta-llama/Meta-Llama-3.1-8B-Instruct", "llama3_1.llama3_1_8b", "LLAMA3")
LLAMA3_1_70B = Model("Llama 3.1 70B", "meta-llama/Meta-Llama-3.1-70B-Instruct", "llama3_1.llama3_1_70b", "LLAMA3")
LLAMA3_2_1B = Model("Llama 3.2 1B", "meta-llama/Llama-3.2-1B-Instruct", "llama3_2.llama3_2_1b", "LLAMA3_2")
LLAMA3_2_3B = Model("Llama 3.2 3B", "meta-llama/Llama-3.2-3B-Instruct", "llama3_2.llama3_2_3b", "LLAMA3_2")
LLAMA3_3_70B = Model("Llama 3.3 70B", "meta-llama/Llama-3.3-70B-Instruct", "llama3_3.llama3_3_70b", "LLAMA3")

PAGED = "bitsandbytes.optim.PagedAdamW"
PAGED_8BIT = "bitsandbytes.optim.PagedAdamW8bit"


@dataclass(frozen=True)
class Row:
    """One config: a model, and what differs from the template's usual values."""

    name: str
    model: Model
    output_dir: str
    distributed: bool
    batch_size: int = 2
    gradient_accumulation_steps: int = 1
    optimizer: str = "torch.optim.AdamW"
    fused: bool | None = None
    lr: str = "2e-5"
    warmup_steps: int | None = None
    max_seq_len: int | None = None
    packed: bool = False
    compile: bool = False
    activation_checkpointing: bool = True
    activation_offloading: bool = False
    cpu_offload: bool = False
    nodes: int = 1
    processes: int = 2


def _single(name: str, model: Model, output_dir: str, **values) -> Row:
    return Row(name, model, output_dir, distributed=False, **{"optimizer": PAGED_8BIT, **values})


def _many(name: str, model: Model, output_dir: str, **values) -> Row:
    return Row(name, model, output_dir, distributed=True, **{"fused": True, **values})


# The values are torchtune's, so that a run repeats what its users know.
_1B_3B = {"batch_size": 4}
_LOW_MEMORY = {"optimizer": PAGED, "activation_offloading": True}
_SLOW = {"lr": "1e-5", "warmup_steps": 100}
_70B = {"cpu_offload": True, "fused": False, "processes": 8}

ROWS = (
    _many("llama2/7B_full", LLAMA2_7B, "llama2_7B/full", processes=4),
    _single("llama2/7B_full_low_memory", LLAMA2_7B, "llama2_7B/full_low_memory", **_LOW_MEMORY, **_SLOW),
    _many("llama2/13B_full", LLAMA2_13B, "llama2_13B/full", processes=4),
    _single("code_llama2/7B_full_low_memory", CODE_LLAMA2_7B, "code_llama2_7B/full_low_memory", **_LOW_MEMORY),
    _many("llama3/8B_full", LLAMA3_8B, "llama3_8B/full", processes=4),
    _single("llama3/8B_full_single_device", LLAMA3_8B, "llama3_8B/full_single_device", **_SLOW),
    _many("llama3/70B_full", LLAMA3_70B, "llama3_70B/full", **_70B),
    _many("llama3_1/8B_full", LLAMA3_1_8B, "llama3_1_8B/full"),
    _single("llama3_1/8B_full_single_device", LLAMA3_1_8B, "llama3_1_8B/full_single_device"),
    _many("llama3_1/70B_full", LLAMA3_1_70B, "llama3_1_70B/full", **_70B),
    _many(
        "llama3_2/1B_full",
        LLAMA3_2_1B,
        "llama3_2_1B/full",
        gradient_accumulation_steps=8,
        activation_checkpointing=False,
        **_1B_3B,
    ),
    _single(
        "llama3_2/1B_full_single_device",
        LLAMA3_2_1B,
        "llama3_2_1B/full_single_device",
        activation_checkpointing=False,
        **_1B_3B,
    ),
    _many("llama3_2/3B_full", LLAMA3_2_3B, "llama3_2_3B/full", gradient_accumulation_steps=8, **_1B_3B),
    _single("llama3_2/3B_full_single_device", LLAMA3_2_3B, "llama3_2_3B/full_single_device", **_1B_3B),
    _many("llama3_3/70B_full", LLAMA3_3_70B, "llama3_3_70B/full", **_70B),
    _many(
        "llama3_3/70B_full_multinode",
        LLAMA3_3_70B,
        "llama3_3_70B/full",
        **{**_70B, "cpu_offload": False, "fused": True},
        batch_size=4,
        max_seq_len=1024,
        packed=True,
        compile=True,
        nodes=2,
    ),
)

_HEAD = """\
# $title: all parameters trained, $where.
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
  _component_: torchtune.models.$component

tokenizer:
  _component_: torchtune.models.$tokenizer
  path: $folder/$tokenizer_file
  max_seq_len: $max_seq_len  # longer samples are cut; null takes them whole

checkpointer:
  _component_: torchtune.training.$checkpointer
  checkpoint_dir: $folder$checkpoint_folder
  # All of its weight files ($weights) are read; checkpoint_files: [...] names some.
  recipe_checkpoint: null  # set by resume_from_checkpoint
  output_dir: ${output_dir}
  model_type: $model_type
resume_from_checkpoint: False  # True goes on from the newest whole checkpoint in output_dir
save_every_n_steps: null  # optimizer steps; null saves at the end of each epoch only

# On what

dataset:
  _component_: torchtune.datasets.alpaca_dataset
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
  lr: $lr$fused
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
"""

_SHARDING = """\
fsdp_cpu_offload: $cpu_offload  # True keeps parameters and optimizer state in host memory
"""

_TAIL = """
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

SINGLE_DEVICE = _HEAD + _TAIL
DISTRIBUTED = _HEAD + _SHARDING + _TAIL

_PAGED_NOTE = "  # GPU only: pip install bitsandbytes; else torch.optim.AdamW"
_NO_SCHEDULER = """\
# lr_scheduler:
#   _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
#   num_warmup_steps: 100"""


def render(row: Row) -> str:
    """The text of one config file."""
    recipe = "full_finetune_distributed" if row.distributed else "full_finetune_single_device"
    values = {
        **vars(row),
        **vars(row.model),
        "folder": row.model.folder,
        "recipe": recipe,
        "where": _where(row),
        "run": _command(row, recipe),
        "device_word": "process" if row.distributed else "device",
        "max_seq_len": "null" if row.max_seq_len is None else row.max_seq_len,
        "optimizer_note": _PAGED_NOTE if row.optimizer.startswith("bitsandbytes") else "",
        "optimizer_in_bwd": not row.distributed,
        "fused": "" if row.fused is None else f"\n  fused: {row.fused}",
        "lr_scheduler": _scheduler(row.warmup_steps),
        "output_dir": row.output_dir,
    }
    # `${output_dir}` belongs to the config, the other names to the template.
    return Template(_template(row).replace("${output_dir}", "$${output_dir}")).substitute(values)


def _template(row: Row) -> str:
    return DISTRIBUTED if row.distributed else SINGLE_DEVICE


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
