"""Steps that every training recipe takes before its loop."""

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from torchtune import config
from torchtune.config.schema import TrainConfig
from torchtune.data import CROSS_ENTROPY_IGNORE_IDX, padded_collate_packed
from torchtune.datasets import PackedDataset
from torchtune.errors import CheckpointError, ConfigError
from torchtune.training.model_util import set_torch_num_threads
from torchtune.training.profiler import DummyProfiler, setup_torch_profiler
from torchtune.utils import get_logger

logger = logging.getLogger(__name__)


def start(cfg: TrainConfig) -> None:
    """Set up logging, on which only the first process speaks below a warning, and the number of threads."""
    first = os.environ.get("RANK", "0") == "0"
    get_logger(cfg.log_level if first else "WARNING")
    if cfg.num_threads is None:
        set_torch_num_threads()
    else:
        torch.set_num_threads(cfg.num_threads)


def setup_profiler(node: Mapping[str, Any] | None) -> tuple[AbstractContextManager, Any]:
    """The profiler of the config, or one that does nothing; says which."""
    profiler, given = (DummyProfiler(), {"enabled": False}) if node is None else config.instantiate(node)
    logger.info("Profiler config after instantiation: %s", given)
    return profiler, given


def collate_for(dataset: Dataset, collate_fn: str, tokenizer: Any) -> Callable[[list[Any]], dict[str, Any]]:
    """The function that makes samples a batch: the one for packs, or the configured one with the tokenizer's padding."""
    if isinstance(dataset, PackedDataset) or getattr(dataset, "packed", False):
        return padded_collate_packed
    collate = config.get_component(collate_fn)
    pad_id = getattr(tokenizer, "pad_id", 0)
    return lambda samples: collate(samples, padding_idx=pad_id, ignore_idx=CROSS_ENTROPY_IGNORE_IDX)


def compiles(setting: bool | Mapping[str, bool], part: str) -> bool:
    """Whether ``compile`` asks for a part: ``model``, ``loss``, ``optimizer_step`` or ``scale_grads``."""
    return setting.get(part, False) if isinstance(setting, Mapping) else setting


def check_max_seq_len(model: nn.Module, tokenizer: Any) -> None:
    """Raises ConfigError when the tokenizer may give more tokens than the model has positions for."""
    wanted, available = getattr(tokenizer, "max_seq_len", None), getattr(model, "max_seq_len", None)
    if wanted is not None and available is not None and wanted > available:
        raise ConfigError(
            f"tokenizer.max_seq_len is {wanted}, but the model has {available} positions; set it to at most {available}"
        )


def check_same_data(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless the position in the data means the same as when it was saved."""
    changed = [f"{key}: {saved.get(key)} then, {value} now" for key, value in now.items() if saved.get(key) != value]
    if changed:
        raise CheckpointError(
            "the run cannot go on exactly where it stopped, because its data or batches have changed:\n  "
            + "\n  ".join(changed)
            + "\nPut them back; or start a new run from the checkpoint's weights: set checkpointer.checkpoint_dir to its "
            "folder, resume_from_checkpoint=False and another output_dir. (samples_per_step is batch_size x "
            "gradient_accumulation_steps x number of processes.)"
        )


def text_vocab_size(tokenizer: Any) -> int:
    """How many ids a tokenizer may give for text; fewer than all where some, such as an image's, need another model."""
    return getattr(tokenizer, "text_vocab_size", tokenizer.vocab_size)
