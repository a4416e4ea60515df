"""One seed for every source of randomness of a process, and the switch to deterministic kernels."""

import logging
import os
import random

import numpy as np
import torch
import torch.distributed as dist

from torchtune.errors import ConfigError
from torchtune.utils import get_world_size_and_rank, log_rank_zero

logger = logging.getLogger(__name__)

# numpy's legacy generator takes 32 bits: https://numpy.org/doc/stable/reference/random/generated/numpy.random.seed.html
_LARGEST_SEED = 2**32 - 1


def set_seed(seed: int | None = None, debug_mode: int | str | None = None) -> int:
    """Seed torch, numpy and random with ``seed + rank``, and give that number back.

    Args:
        seed: 0 to 2**32 - 1; None draws one, the same in all processes.
        debug_mode: 0 or "default" leaves all kernels allowed, 1 or "warn" warns of those that are not deterministic,
            2 or "error" refuses them; None changes nothing.
            https://docs.pytorch.org/docs/stable/generated/torch.set_deterministic_debug_mode.html

    Raises:
        ConfigError: the seed or the mode is not one of those.
    """
    world_size, rank = get_world_size_and_rank()
    if seed is None:
        seed = _draw_one_for_all(world_size)
    if not 0 <= seed <= _LARGEST_SEED - rank:
        raise ConfigError(f"seed is {seed}; seed + rank must lie between 0 and {_LARGEST_SEED}")
    local_seed = seed + rank
    message = f"Setting manual seed to local seed {local_seed}. Local seed is seed + rank = {seed} + {rank}"
    log_rank_zero(logger, message)
    torch.manual_seed(local_seed)
    np.random.seed(local_seed)
    random.seed(local_seed)
    if debug_mode is not None:
        _set_determinism(debug_mode)
    return local_seed


def _draw_one_for_all(world_size: int) -> int:
    # From the system and not from torch, whose generator may have been seeded before.
    drawn = [random.SystemRandom().randrange(2**31)]
    if world_size > 1:
        dist.broadcast_object_list(drawn, src=0)
    return drawn[0]


def _set_determinism(debug_mode: int | str) -> None:
    names = {"0": "default", "1": "warn", "2": "error"}
    mode = names.get(str(debug_mode), str(debug_mode))
    if mode not in names.values():
        raise ConfigError(f"cudnn_deterministic_mode is {debug_mode!r}; use 0 (default), 1 (warn) or 2 (error)")
    log_rank_zero(logger, f"Setting deterministic debug mode to {mode}")
    torch.set_deterministic_debug_mode(mode)
    deterministic = mode != "default"
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        # https://docs.nvidia.com/cuda/cublas/index.html#results-reproducibility
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
