"""Small checks and switches on a model and its process."""

import logging
import os

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from torchtune.utils import log_rank_zero

logger = logging.getLogger(__name__)


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout of ``model`` to 0, and say where it was not."""
    for name, module in model.named_modules():
        attribute = "p" if isinstance(module, _DropoutNd) else "attn_dropout"
        before = getattr(module, attribute, 0.0)
        if before:
            log_rank_zero(logger, f"Dropout of {name or 'the model'} was {before} and is set to 0", logging.WARNING)
            setattr(module, attribute, 0.0)


def validate_no_params_on_meta_device(model: nn.Module) -> None:
    """Check that every parameter and buffer has memory.

    Raises:
        RuntimeError: one was never filled.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise RuntimeError(f"{name} is still on the meta device: no weight was loaded into it")


def set_torch_num_threads() -> None:
    """Share this machine's cores among its processes; a single process with OMP_NUM_THREADS set keeps that."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes == 1 and "OMP_NUM_THREADS" in os.environ:
        return
    num_threads = max(1, _num_cores() // processes)
    torch.set_num_threads(num_threads)
    log_rank_zero(logger, f"Using {num_threads} threads per process for computation on the CPU")


def _num_cores() -> int:
    # What this process may use, which in a container or a batch job is less than what the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
