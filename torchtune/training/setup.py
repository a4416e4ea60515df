"""Steps that every training recipe takes before its loop."""

import ctypes
import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from torchtune import config
from torchtune.config.schema import TrainConfig
from torchtune.data import CROSS_ENTROPY_IGNORE_IDX, padded_collate_packed
from torchtune.data._collate import collate_packs
from torchtune.datasets import PackedDataset
from torchtune.datasets._gates import act_on, findings_in, parts_to_check, unknown_ids_in
from torchtune.datasets._parts import Part
from torchtune.datasets._prepare import Preparation, default_cache_dir
from torchtune.errors import CheckpointError, ConfigError, DataError
from torchtune.training.distributed import World
from torchtune.training.model_util import set_torch_num_threads
from torchtune.training.profiler import setup_torch_profiler
from torchtune.utils import get_logger, get_world_size_and_rank

# https://man7.org/linux/man-pages/man3/mallopt.3.html
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_WITH = {
    ("adapters", True): "that trains adapters",
    ("adapters", False): "of full fine-tuning",
    ("quantize_base", True): "over a base in 4 bits (quantize_base: True)",
    ("quantize_base", False): "over a base that is not quantized (quantize_base: False)",
}

logger = logging.getLogger(__name__)


def start(cfg: TrainConfig) -> None:
    """Set up logging, on which only the first process speaks below a warning, and the number of threads."""
    first = os.environ.get("RANK", "0") == "0"
    get_logger(cfg.log_level if first else "WARNING")
    if cfg.num_threads is None:
        set_torch_num_threads()
    else:
        torch.set_num_threads(cfg.num_threads)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the C library keep large blocks that are freed, where it can: each anew costs a page fault per 4 KiB.

    A step's large tensors are made and freed over and over; on the CPU this makes a step with a large vocabulary about
    a seventh shorter, for some peak memory more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(option, 1 << 30)


def setup_profiler(node: Mapping[str, Any] | None) -> tuple[AbstractContextManager, Any]:
    """The profiler of the config, or one that does nothing; says which."""
    profiler, given = setup_torch_profiler(enabled=False) if node is None else config.instantiate(node)
    logger.info("Profiler config after instantiation: %s", given)
    return profiler, given


def prepare_data(dataset: Dataset, cfg: TrainConfig, world: World) -> None:
    """Tokenise a dataset, and pack it; the main process does so first, and the others read what it has kept."""
    if not hasattr(dataset, "prepare"):
        return
    cache_dir = default_cache_dir() if cfg.data_cache else None
    for turn in (True, False):
        if world.is_main == turn:
            dataset.prepare(Preparation(workers=cfg.data_workers, cache_dir=cache_dir, is_main=turn))
        world.barrier()


def check_data(
    dataset: Dataset, dataset_val: Dataset | None, tokenizer: Any, cfg: TrainConfig, world: World
) -> list[Part]:
    """Look for what training would suffer from in silence; the main process does, and the others wait.

    Returns:
        what was looked at, for :func:`check_ids`

    Raises:
        DataError: most samples have a fault, unless ``data_checks`` says that it is none.
    """
    train = val = []
    if world.is_main:
        train, val = parts_to_check(dataset, "dataset"), parts_to_check(dataset_val, "dataset_val")
        act_on(findings_in(train, val, tokenizer, cfg.data_checks))
    world.barrier()
    return [*train, *val]


def check_ids(model: nn.Module, looked_at: list[Part], tokenizer: Any, cfg: TrainConfig, world: World) -> None:
    """Look for token ids that the model does not have.

    Raises:
        DataError: there are some, unless ``data_checks`` says that it is none.
    """
    act_on(unknown_ids_in(looked_at, tokenizer, model.tok_embeddings.num_embeddings, cfg.data_checks))
    world.barrier()


def collate_for(dataset: Dataset, cfg: TrainConfig, tokenizer: Any) -> Callable[[list[Any]], dict[str, Any]]:
    """The function that makes samples a batch: the one for packs, or the configured one with the pad token."""
    if isinstance(dataset, PackedDataset) or getattr(dataset, "packed", False):
        # A compiled model would be compiled anew for each batch's lengths; a mask has one shape.
        return padded_collate_packed if compiles(cfg.compile, "model") else collate_packs
    collate = config.get_component(cfg.collate_fn)
    pad_id = getattr(tokenizer, "pad_id", 0)
    return lambda samples: collate(samples, padding_idx=pad_id, ignore_idx=CROSS_ENTROPY_IGNORE_IDX)


def make_scheduler(node: Mapping[str, Any] | None, optimizer: Optimizer, num_steps: int) -> LRScheduler | None:
    """The learning-rate schedule, stepped once per optimizer step; torch's own do not take the number of steps."""
    if node is None:
        return None
    takes = inspect.signature(config.get_component(node["_component_"])).parameters
    total = {"num_training_steps": num_steps} if "num_training_steps" in takes else {}
    scheduler = config.instantiate(node, optimizer, **total)
    logger.info("Learning rate scheduler is initialized.")
    return scheduler


def compiles(setting: bool | Mapping[str, bool], part: str) -> bool:
    """Whether ``compile`` asks for a part: ``model``, ``loss``, ``optimizer_step`` or ``scale_grads``."""
    return setting.get(part, False) if isinstance(setting, Mapping) else setting


def kept_checkpoints(cfg: TrainConfig) -> int | None:
    """How many checkpoints to keep, said at the top of the config or, as torchtune has it, below ``checkpointer``."""
    return cfg.keep_last_n_checkpoints or cfg.checkpointer.get("keep_last_n_checkpoints")


def adapter_checkpoint(cfg: TrainConfig) -> str | None:
    """The adapter that training begins with, below ``checkpointer``; None for a new one.

    torchtune's configs name the file that a resumed run reads; where it is not there, they mean nothing by it.
    """
    named = cfg.checkpointer.get("adapter_checkpoint")
    if named == "adapter_model.pt" and not (Path(cfg.checkpointer["checkpoint_dir"]) / named).exists():
        return None
    return named


def say_what_has_no_effect(cfg: TrainConfig, seed: int | None) -> None:
    """Warn of settings that are well-formed and change nothing in this run, which has this seed."""
    if cfg.seed not in (None, seed):
        logger.warning("seed: %d has no effect: the run goes on with the one that it began with, %d.", cfg.seed, seed)
    if isinstance(cfg.compile, Mapping):
        for part in sorted(part for part, wanted in cfg.compile.items() if wanted and part != "model"):
            logger.warning("compile.%s has no effect: layers of the model are what is compiled.", part)
    if cfg.fsdp_cpu_offload and get_world_size_and_rank()[0] == 1:
        logger.warning("fsdp_cpu_offload has no effect with one process: nothing is sharded.")
    elsewhere = cfg.checkpointer.get("output_dir")
    if elsewhere is not None and Path(elsewhere).absolute() != Path(cfg.output_dir).absolute():
        logger.warning("checkpointer.output_dir has no effect: checkpoints go to output_dir, %s.", cfg.output_dir)


def give_hints(cfg: TrainConfig, device: torch.device) -> None:
    """Say which setting would help further, where that is known without a measurement."""
    if cfg.enable_activation_checkpointing and not cfg.enable_activation_offloading and device.type != "cpu":
        logger.info(
            "Hint: enable_activation_checkpointing is True, but enable_activation_offloading isn't. "
            "Enabling activation offloading should reduce memory further."
        )


def check_max_seq_len(model: nn.Module, tokenizer: Any) -> None:
    """Raises ConfigError when the tokenizer may give more tokens than the model has positions for."""
    wanted, available = getattr(tokenizer, "max_seq_len", None), getattr(model, "max_seq_len", None)
    if wanted is not None and available is not None and wanted > available:
        raise ConfigError(
            f"tokenizer.max_seq_len is {wanted}, but the model has {available} positions; set it to at most {available}"
        )


def check_lengths(model: nn.Module, looked_at: list[Part]) -> None:
    """Raises DataError when a sample has more tokens than the model has positions for; packs are cut at their size."""
    available = getattr(model, "max_seq_len", None)
    for part in looked_at if available is not None else ():
        lengths = part.table.lengths
        is_long = lengths > available
        if part.packed is None and is_long.any():
            first = int(np.argmax(is_long))
            raise DataError(
                f"{int(is_long.sum()):,} of {len(lengths):,} samples of {part.title} are longer than the model's "
                f"{available:,} positions, the first has {int(lengths[first]):,} tokens ({part.where(first)}). Set "
                f"tokenizer.max_seq_len to at most {available}, which cuts them, or leave these rows out"
            )


def check_same_data(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless the position in the data means the same as when it was saved."""
    changed = [f"{key}: {saved.get(key)} then, {value} now" for key, value in now.items() if saved.get(key) != value]
    if changed:
        raise CheckpointError(
            "the run cannot go on exactly where it stopped, because its data or batches have changed:\n  "
            + "\n  ".join(changed)
            + "\nPut them back; or start a new run from the checkpoint's weights: set checkpointer.checkpoint_dir to "
            "its folder, resume_from_checkpoint=False and another output_dir. (samples_per_step is batch_size x "
            "gradient_accumulation_steps x number of processes.)"
        )


def check_same_method(saved: Mapping[str, Any], now: Mapping[str, bool]) -> None:
    """Raises CheckpointError unless the run trains what it trained when it was saved."""
    for key, value in now.items():
        if saved.get(key, False) != value:
            raise CheckpointError(
                f"output_dir holds a run {_WITH[key, not value]}, and this config is for one {_WITH[key, value]}. "
                "Go on with the config of that run; or start a new one: set another output_dir, or "
                "resume_from_checkpoint=False."
            )


def text_vocab_size(tokenizer: Any) -> int:
    """How many ids a tokenizer may give for text; fewer than all where some, such as an image's, need another model."""
    return getattr(tokenizer, "text_vocab_size", tokenizer.vocab_size)
