"""Every key of the training recipes: its name, type, default and unit, and which combinations cannot work."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from torchtune.config._adapters import adapter_faults
from torchtune.config._data_checks import data_checks
from torchtune.config._inference_schema import EvalConfig as EvalConfig
from torchtune.config._inference_schema import GenerateConfig as GenerateConfig
from torchtune.config._inference_schema import InferenceConfig as InferenceConfig
from torchtune.config._inference_schema import QuantizeConfig as QuantizeConfig
from torchtune.config._keys import AtLeast, Component, Count, Dotted, Filled, Over, Threads, Within, inert, later
from torchtune.config._rules import CUDA_LIKE, Rule, Values, broken, device_name

Seconds = Annotated[float, Over(0)]


def _adamw() -> dict[str, Any]:
    return {"_component_": "torch.optim.AdamW", "lr": 2e-5}


def _linear_cross_entropy() -> dict[str, Any]:
    return {"_component_": "torchtune.modules.loss.LinearCrossEntropyLoss"}


def _disk_logger() -> dict[str, Any]:
    return {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": "${output_dir}/logs"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every training recipe reads. A field that holds a component is a config node for ``config.instantiate``."""

    recipe: str | None = None  # the recipe that this config is for, so that `tune run --config` alone is enough
    output_dir: Annotated[str, Filled()]  # folder for checkpoints, logs and the resolved config

    # What is trained, on what, from where
    model: Component
    tokenizer: Component
    dataset: Component | list[Component]  # a list is joined into one dataset
    checkpointer: Component
    resume_from_checkpoint: bool = False  # go on from the newest whole checkpoint in output_dir
    save_every_n_steps: Count | None = None  # optimizer steps between checkpoints; None: at the end of every epoch
    save_adapter_weights_only: bool = False  # checkpoints are adapters alone, without the weights they are merged into
    keep_last_n_checkpoints: Count | None = None  # older ones are removed; None: keep all

    # Data
    batch_size: Count = 1  # samples per process and micro-batch
    shuffle: bool = True
    seed: Annotated[int, AtLeast(0)] | None = None  # None: one is drawn and logged
    collate_fn: Dotted = "torchtune.data.padded_collate_sft"
    num_workers: Annotated[int, Within(0, 256)] = 0  # loader processes; 0: samples are made in the training process
    data_workers: Annotated[int, Within(0, 1024)] | None = (
        None  # processes that tokenise before training; None: by cores
    )
    data_cache: bool = True  # keep what was tokenised of large data below ~/.cache/torchtune/data, for the next run
    data_checks: Any = field(default_factory=dict)  # a mapping: the name of a check -> off, warn or error
    pin_memory: bool | None = None  # page-locked batches; None: when the device is a GPU

    mixture_stop: Literal["first_exhausted", "all_exhausted"] | None = None  # end of an epoch of weighted datasets
    group_by_length: bool = False  # put samples of like length into a step, so that less is padded

    # Steps
    epochs: Count = 1
    max_steps: Count | None = None  # optimizer steps of the whole run, in place of epochs; None: epochs
    max_steps_per_epoch: Count | None = None  # optimizer steps; None: the whole dataset
    gradient_accumulation_steps: Count = 1  # micro-batches per optimizer step
    optimizer: Component = field(default_factory=_adamw)
    optimizer_in_bwd: bool = False  # step each parameter as soon as its gradient is there; saves the gradients' memory
    lr_scheduler: Component | None = None  # None: constant learning rate
    loss: Component = field(default_factory=_linear_cross_entropy)
    clip_grad_norm: Annotated[float, Over(0)] | None = None  # largest norm of all gradients; None: no clipping

    # Device, precision, memory
    device: str | None = None  # "cpu", "cuda", "cuda:1", ...; None: the best there is
    dtype: Literal["bf16", "fp32", "fp16", "fp64"] = "bf16"
    num_threads: Threads | None = None  # CPU threads per process; None: torch's choice
    enable_activation_checkpointing: bool = False
    ac_mode: Literal["full", "selective"] | None = None  # which layers are recomputed; None: all, when enabled
    ac_option: Annotated[int, AtLeast(1)] | Literal["op"] | None = None  # selective: every n-th layer, or costly ops
    enable_activation_offloading: bool = False  # keep activations in host memory until backward
    activation_offloading_use_streams: bool = True  # overlap those copies with computation
    compile: bool | Mapping[str, bool] = False  # or a mapping of model, loss, optimizer_step, scale_grads
    cudnn_deterministic_mode: Literal["default", "warn", "error", 0, 1, 2] | bool | None = None

    # Many processes
    fsdp_cpu_offload: bool = False
    fsdp_reshard_after_forward: bool = True
    fsdp_prefetch_layers: Annotated[int, AtLeast(0)] = 1  # layers whose parameters are gathered ahead of time
    fsdp_accumulate_unsharded: bool = False  # add up gradients over processes once per step: faster, more memory
    init_timeout_seconds: Seconds = 600.0  # how long the processes wait for each other at the start
    train_timeout_seconds: Seconds = 600.0  # how long a collective may take before the run fails

    # What is reported
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    metric_logger: Component | list[Component] = field(default_factory=_disk_logger)
    log_every_n_steps: Count | None = 1  # None: 1
    log_peak_memory_stats: bool = False
    profiler: Component | None = None  # None: no profile is taken

    # Keys of torchtune's recipes that say something this library does anyway
    low_cpu_ram: bool = inert(False, "weights are always streamed, one tensor at a time")
    memory_efficient_fsdp_wrap: bool = inert(False, "every layer is a shard group of its own")
    custom_sharded_layers: list[str] | None = inert(
        None, "each layer is a shard group, and the embedding, last norm and output are one more, which the loss reads"
    )
    enable_async_checkpointing: bool = inert(False, "a checkpoint is complete before training goes on")
    fsdp: Mapping[str, Any] | None = inert(None, "use fsdp_cpu_offload and fsdp_reshard_after_forward")
    use_distributed_state_dict: bool = inert(False, "weights are always read straight into shards")
    use_flex: bool = inert(False, "the attention kernel is chosen by the mask")

    # Keys whose feature is not here yet: only the value that switches it off is taken
    tensor_parallel_dim: int = later(1, 1, feature="tensor parallelism")
    tensor_parallel_plan: Component | None = inert(None, "tensor_parallel_dim is 1")
    context_parallel_dim: int = later(1, 1, feature="context parallelism")
    context_parallel_rotate_method: Literal["allgather", "alltoall"] = inert("allgather", "context_parallel_dim is 1")
    data_parallel_replicate_dim: int = later(1, 1, feature="replicated sharding (HSDP)")
    data_parallel_shard_dim: int = later(-1, -1, feature="a shard count other than the number of processes (-1)")
    enable_fp8_training: bool = later(False, False, feature="fp8 training")
    fp8_recipe_name: str | None = inert(None, "enable_fp8_training is False")
    quantizer: Component | None = later(None, None, feature="quantization-aware training")
    fake_quant_after_n_steps: int | None = later(None, None, feature="quantization-aware training")
    layer_dropout: Mapping[str, Any] | None = later(None, None, feature="layer dropout")
    early_exit_loss: Mapping[str, Any] | None = later(None, None, feature="the early-exit loss")
    datasets: Any = later(
        None, None, feature="the `datasets` list", instead="a list under `dataset`, whose entries may have a `weight`"
    )
    dataloader: Any = later(
        None, None, feature="the `dataloader` mapping", instead="the keys num_workers, pin_memory and shuffle"
    )

    @staticmethod
    def contradictions(v: Values) -> Iterator[tuple[str, str]]:
        """Pairs of (key, message) for settings that cannot work together."""
        yield from broken(_RULES, v)
        yield from adapter_faults(v)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainConfig):
    """What the supervised fine-tuning recipe reads beyond ``TrainConfig``."""

    dataset_val: Component | list[Component] | None = None
    batch_size_val: Count | None = None  # samples per process; None: batch_size
    run_val_every_n_steps: Count | None = None  # optimizer steps between validations; None: no validation
    resize_token_embeddings: bool = False  # make the model's vocabulary as large as the tokenizer's


# Keys that other recipes read; in a training config they change nothing.
ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("enable_kv_cache", "prompt", "max_new_tokens"), "read by generate"),
    **dict.fromkeys(("tasks", "limit", "max_seq_length", "include_path", "chat_template", "apply_chat_template"),
                    "read by eleuther_eval"),
    **dict.fromkeys(("top_k", "temperature"), "read by generate, ppo and grpo"),
    **dict.fromkeys(("teacher_model", "teacher_checkpointer", "kd_loss", "kd_ratio"), "read by knowledge_distillation"),
    **dict.fromkeys(("ref_checkpointer",), "read by dpo and grpo"),
    **dict.fromkeys(("policy_model", "reward_and_value_model", "ref_policy_checkpointer", "value_checkpointer",
                     "reward_checkpointer", "ppo_batch_size", "min_response_length", "penalise_no_eos",
                     "reward_penalty", "whiten_rewards", "gamma", "lmbda", "kl_coeff"), "read by ppo"),
    **dict.fromkeys(("forward_batch_size", "max_generated_tokens", "ppo_epochs", "num_steps", "stop_token_ids"),
                    "read by ppo and grpo"),
    **dict.fromkeys(("save_every_n_epochs", "grpo_samples", "reward_functions", "orchestration", "inference",
                     "postprocessing", "training", "debug_logging_enabled", "debug_num_samples_per_step",
                     "enable_expandable_segments"), "read by grpo"),
}  # fmt: skip


def _in_backward(v: Values) -> tuple[str, str] | None:
    if v["optimizer_in_bwd"] and v["gradient_accumulation_steps"] > 1:
        return "optimizer_in_bwd", (
            "optimizer_in_bwd steps at every backward, so gradients cannot be accumulated; set "
            "gradient_accumulation_steps: 1 (now {gradient_accumulation_steps}) or optimizer_in_bwd: False"
        ).format(**v)
    return None


def _in_backward_clip(v: Values) -> tuple[str, str] | None:
    if v["optimizer_in_bwd"] and v["clip_grad_norm"] is not None:
        return "optimizer_in_bwd", (
            "optimizer_in_bwd never holds all gradients at once, so their norm cannot be clipped; set "
            "clip_grad_norm: null or optimizer_in_bwd: False"
        )
    return None


def _offloading(v: Values) -> tuple[str, str] | None:
    if not v["enable_activation_offloading"]:
        return None
    if not (v["enable_activation_checkpointing"] or v["ac_mode"]):
        return "enable_activation_offloading", (
            "enable_activation_offloading wants enable_activation_checkpointing: True as well: without it nearly every "
            "intermediate result would travel to host memory"
        )
    if v["device"] is not None and not v["device"].startswith(CUDA_LIKE):
        return "enable_activation_offloading", (
            f"enable_activation_offloading moves activations off a GPU, and device is {v['device']}; set it to False"
        )
    return None


def _half_on_cpu(v: Values) -> tuple[str, str] | None:
    if v["dtype"] == "fp16" and v["device"] == "cpu":
        return "dtype", "dtype fp16 needs a GPU and a loss scaler; on device cpu use bf16 or fp32"
    return None


def _selective(v: Values) -> tuple[str, str] | None:
    if v["ac_mode"] == "selective" and v["ac_option"] is None:
        return "ac_mode", "ac_mode: selective wants ac_option: n (recompute every n-th layer) or op (costly operations)"
    if v["ac_option"] is not None and v["ac_mode"] != "selective":
        return "ac_option", f"ac_option is read only with ac_mode: selective, and ac_mode is {v['ac_mode'] or 'null'}"
    return None


def _validation(v: Values) -> tuple[str, str] | None:
    if v.get("run_val_every_n_steps") is not None and v.get("dataset_val") is None:
        return "run_val_every_n_steps", "run_val_every_n_steps wants a dataset_val to validate on"
    return None


def _compile_parts(v: Values) -> tuple[str, str] | None:
    parts = {"model", "loss", "optimizer_step", "scale_grads"}
    if isinstance(v["compile"], Mapping) and (extra := sorted(set(v["compile"]) - parts)):
        return "compile", f"compile has no part {extra[0]!r}; its parts are {', '.join(sorted(parts))}"
    return None


def _kept(v: Values) -> tuple[str, str] | None:
    node = v["checkpointer"]
    inner = node.get("keep_last_n_checkpoints") if isinstance(node, Mapping) else None
    if inner is not None and v["keep_last_n_checkpoints"] not in (None, inner):
        return "keep_last_n_checkpoints", (
            f"keep_last_n_checkpoints is {v['keep_last_n_checkpoints']} here and {inner} under checkpointer"
        )
    if inner is not None and (not isinstance(inner, int) or isinstance(inner, bool) or inner < 1):
        return "checkpointer.keep_last_n_checkpoints", (
            f"checkpointer.keep_last_n_checkpoints must be a whole number of at least 1 or null, found {inner!r}"
        )
    return None


def _mixture(v: Values) -> tuple[str, str] | None:
    data = v["dataset"]
    if isinstance(data, Mapping) and "weight" in data and str(data.get("_component_")).startswith("torchtune."):
        return "dataset.weight", "dataset.weight is for an entry of a list of datasets; one dataset has none"
    entries = data if isinstance(data, list) else []
    weights = {number: node["weight"] for number, node in enumerate(entries) if "weight" in node}
    if weights and len(weights) < len(entries):
        return "dataset", "some of the datasets in the list have a weight and some have none; give it to all or to none"
    for number, weight in weights.items():
        if type(weight) not in (int, float) or not 0 < weight < math.inf:
            key, found = f"dataset.{number}.weight", "null" if weight is None else repr(weight)
            return key, f"{key} must be a finite number above 0, found {found}"
    if v["mixture_stop"] is not None and not weights:
        return "mixture_stop", "mixture_stop is read only where `dataset` is a list whose entries have a weight"
    return None


def _validation_data(v: Values) -> tuple[str, str] | None:
    nodes = v.get("dataset_val")
    for node in nodes if isinstance(nodes, list) else [nodes or {}]:
        if "weight" in node:
            return "dataset_val", "dataset_val: every sample counts once, so its entries have no weight; leave it out"
        if node.get("streaming"):
            return "dataset_val", "dataset_val: a validation set is read whole; leave out streaming: True"
    return None


_RULES: tuple[Rule, ...] = (
    _in_backward, _in_backward_clip, _offloading, _half_on_cpu, _selective, _validation, _compile_parts, _kept,
    _mixture, _validation_data, data_checks, device_name,
)  # fmt: skip
