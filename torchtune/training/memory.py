"""What a run needs in memory, and two ways to need less: recompute activations, or step in the backward pass."""

import gc
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchtune.errors import CheckpointError, ConfigError
from torchtune.training.activations import recompute_in_backward
from torchtune.utils import get_device_support, get_torch_device_namespace, log_rank_zero

logger = logging.getLogger(__name__)

DEFAULT_LOG_MESSAGE = "Memory stats after model init:"
VALID_BACKENDS_FOR_MEMORY_STATS = ("cuda", "xpu", "npu", "hpu")

_GIB = 2**30
_LABELS = {
    "peak_memory_alloc": "peak memory allocation",
    "peak_memory_reserved": "peak memory reserved",
    "peak_memory_active": "peak memory active",
    "peak_memory_resident": "peak resident memory of this process",
}


def set_activation_checkpointing(
    model: nn.Module,
    auto_wrap_policy: set[type] | Callable[[nn.Module, bool, int], bool],
    **kwargs: Any,
) -> None:
    """Make the chosen modules keep only their inputs and run again in backward; no parameter's name changes.

    Args:
        auto_wrap_policy: types of modules, or ``policy(module, recurse, nonwrapped_numel)``, which is asked with
            ``recurse=True`` whether to look inside the module, and with ``recurse=False`` whether to take it.
        kwargs: for :func:`torch.utils.checkpoint.checkpoint`.
    """
    chosen = _policy(auto_wrap_policy)
    for child in model.children():
        if chosen(module=child, recurse=True, nonwrapped_numel=_numel(child)):
            set_activation_checkpointing(child, auto_wrap_policy, **kwargs)
        if chosen(module=child, recurse=False, nonwrapped_numel=_numel(child)):
            recompute_in_backward(child, **kwargs)


def cleanup_before_training() -> None:
    """Collect garbage, empty the accelerator's cache and start its peak figures afresh."""
    gc.collect()
    device = get_torch_device_namespace()
    if get_device_support().device_type in VALID_BACKENDS_FOR_MEMORY_STATS:
        device.empty_cache()
        device.reset_peak_memory_stats()


def get_memory_stats(device: torch.device, reset_stats: bool = True) -> dict[str, float]:
    """Peak memory in GiB: allocated, reserved and active on an accelerator; on a CPU what the process held in RAM.

    Args:
        reset_stats: count afresh from here. On a CPU the peak is always the one since the process started.
    """
    if device.type not in VALID_BACKENDS_FOR_MEMORY_STATS:
        return {"peak_memory_resident": _peak_resident_bytes() / _GIB}
    namespace = getattr(torch, device.type)
    stats = {
        "peak_memory_active": namespace.memory_stats().get("active_bytes.all.peak", 0) / _GIB,
        "peak_memory_alloc": namespace.max_memory_allocated(device) / _GIB,
        "peak_memory_reserved": namespace.max_memory_reserved(device) / _GIB,
    }
    if reset_stats:
        namespace.reset_peak_memory_stats(device)
    return stats


def log_memory_stats(stats: dict[str, float], message: str = DEFAULT_LOG_MESSAGE) -> None:
    """Log what :func:`get_memory_stats` gave, in the first process."""
    name = get_device_support().device_name
    figures = [f"\n\t{name} {label}: {stats[key]:.2f} GiB" for key, label in _LABELS.items() if key in stats]
    log_rank_zero(logger, message + "".join(figures))


class OptimizerInBackwardWrapper:
    """Makes one optimizer per parameter look like a single one where its state and its rate are concerned.

    Args:
        optim_map: name of each parameter -> its optimizer.
    """

    def __init__(self, optim_map: dict[str, Optimizer]) -> None:
        self.optim_map = optim_map
        self.lr_scheduler: LRScheduler | None = None

    def state_dict(self) -> dict[str, Any]:
        """State of each optimizer by the name of its parameter."""
        return {name: optimizer.state_dict() for name, optimizer in self.optim_map.items()}

    def load_state_dict(self, optim_ckpt_map: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave.

        Raises:
            CheckpointError: it is for other parameters.
        """
        missing = self.optim_map.keys() - optim_ckpt_map.keys()
        unexpected = optim_ckpt_map.keys() - self.optim_map.keys()
        if missing or unexpected:
            raise CheckpointError(
                f"the optimizer state is for other parameters: missing {sorted(missing)[:5]}, "
                f"unexpected {sorted(unexpected)[:5]}; resume with the model that wrote it"
            )
        for name, optimizer in self.optim_map.items():
            optimizer.load_state_dict(optim_ckpt_map[name])

    def get_optim_key(self, key: str) -> Any:
        """Value of ``key``, such as "lr", in the first optimizer's parameter group."""
        return next(iter(self.optim_map.values())).param_groups[0][key]

    def set_lr_scheduler(self, lr_scheduler: LRScheduler) -> None:
        """Let a schedule made on one of the optimizers govern them all."""
        self.lr_scheduler = lr_scheduler

    def step_lr_scheduler(self, epoch: int | None = None) -> None:
        """Step the schedule and give every optimizer its rate.

        Raises:
            ConfigError: there is no schedule.
        """
        self._scheduler().step(epoch)
        for optimizer in self.optim_map.values():
            for group in optimizer.param_groups:
                group["lr"] = self.get_last_lr()

    def get_last_lr(self) -> float:
        """The rate the schedule gave last.

        Raises:
            ConfigError: there is no schedule.
        """
        return self._scheduler().get_last_lr()[0]

    def _scheduler(self) -> LRScheduler:
        if self.lr_scheduler is None:
            raise ConfigError("there is no learning-rate schedule; call set_lr_scheduler first")
        return self.lr_scheduler


def create_optim_in_bwd_wrapper(
    model: nn.Module, optim_dict: dict[nn.Parameter, Optimizer]
) -> OptimizerInBackwardWrapper:
    """The wrapper of ``optim_dict``'s optimizers, by the names that their parameters have in ``model``."""
    return OptimizerInBackwardWrapper({n: optim_dict[p] for n, p in model.named_parameters() if p in optim_dict})


def register_optim_in_bwd_hooks(model: nn.Module, optim_dict: dict[nn.Parameter, Optimizer]) -> None:
    """Update each parameter as soon as its gradient is there, and free that gradient, so that few exist at a time.

    https://docs.pytorch.org/tutorials/intermediate/optimizer_step_in_backward_tutorial.html
    """

    def update(param: nn.Parameter) -> None:
        optim_dict[param].step()
        optim_dict[param].zero_grad()

    for param in model.parameters():
        if param in optim_dict:
            param.register_post_accumulate_grad_hook(update)


def _policy(policy: set[type] | Callable[[nn.Module, bool, int], bool]) -> Callable[..., bool]:
    if callable(policy):
        return policy
    types = tuple(policy)
    return lambda module, recurse, nonwrapped_numel: recurse or isinstance(module, types)


def _numel(module: nn.Module) -> int:
    return sum(param.numel() for param in module.parameters())


def _peak_resident_bytes() -> int:
    import resource  # absent on Windows, where the rest of this file works

    # Linux could start this figure afresh, but what a user's own tools report of the process would change with it.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
