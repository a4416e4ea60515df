"""The checkpoint client that torchtune's recipes use; thin, over the checkpointers, and without asynchronous saves."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

from torchtune import config
from torchtune.errors import ConfigError
from torchtune.modules.peft import get_adapter_state_dict, get_merged_lora_ckpt
from torchtune.training._distributed import gather_cpu_state_dict, get_full_optimizer_state_dict
from torchtune.training.checkpointing._names import (
    ADAPTER_CONFIG,
    ADAPTER_KEY,
    DATALOADER_KEY,
    EPOCHS_KEY,
    MAX_STEPS_KEY,
    MODEL_KEY,
    OPT_KEY,
    SEED_KEY,
    STEPS_KEY,
    TOTAL_EPOCHS_KEY,
    VAL_DATALOADER_KEY,
)
from torchtune.training.memory import OptimizerInBackwardWrapper
from torchtune.utils import get_device, get_world_size_and_rank


@dataclass
class TrainingProgress:
    """How far a run has come.

    Args:
        epochs_run: epochs that are finished.
        steps_run: optimizer steps since the start; None where the recipe counts epochs only.
        total_training_steps: steps of the whole run; for the recipe's own use.
    """

    seed: int
    epochs_run: int
    total_epochs: int
    max_steps_per_epoch: int
    steps_run: int | None = None
    total_training_steps: int | None = None
    dataloader_state_dict: dict[str, Any] | None = None
    val_dataloader_state_dict: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, object]:
        """The fields under the keys of a recipe's state; those that only some recipes have, where they are set."""
        state = {
            SEED_KEY: self.seed,
            EPOCHS_KEY: self.epochs_run,
            TOTAL_EPOCHS_KEY: self.total_epochs,
            MAX_STEPS_KEY: self.max_steps_per_epoch,
            DATALOADER_KEY: self.dataloader_state_dict,
        }
        optional = {
            STEPS_KEY: self.steps_run,
            "total_training_steps": self.total_training_steps,
            VAL_DATALOADER_KEY: self.val_dataloader_state_dict,
        }
        return state | {key: value for key, value in optional.items() if value is not None}


class CheckpointClient:
    """Loads and saves with the checkpointer of a recipe's config, on one process or many.

    Args:
        cfg: with the node ``checkpointer``; ``resume_from_checkpoint`` says that the recipe's state is wanted too.

    Raises:
        ConfigError: ``enable_async_checkpointing`` is set.
    """

    def __init__(self, cfg: DictConfig) -> None:
        if cfg.get("enable_async_checkpointing", False):
            raise ConfigError(
                "enable_async_checkpointing: True cannot be had in a recipe that saves with CheckpointClient; "
                "leave it out, and training waits until a checkpoint is written"
            )
        self._cfg = cfg
        self._checkpointer: Any = None

    def load_base_checkpoint(self) -> dict[str, Any]:
        """The model's whole state dict under "model", and on resume the state that was saved with it.

        Raises:
            CheckpointError: the files cannot be read.
        """
        return self._get_checkpointer().load_checkpoint()

    def save_checkpoint(
        self,
        model: nn.Module,
        optimizer: Optimizer | OptimizerInBackwardWrapper,
        training_progress: TrainingProgress,
        epoch: int,
        adapter_config: dict[str, Any] | None = None,
        adapter_only: bool = False,
        single_device: bool = False,
        *,
        full_tensors: bool = True,
        dir_prefix: str = "epoch",
    ) -> None:
        """Write ``output_dir/epoch_N`` or ``step_N``, and the run's state beside it until the last epoch is done.

        All processes must call this; the first one writes, the others wait for it.

        Args:
            adapter_config: what the model's adapters are: ``r`` and ``lora_alpha``, the same in all layers, and
                ``target_modules``; the model is saved with them merged. None for a model without adapters.
            adapter_only: leave the merged model out.
            single_device: keep the optimizer's own state dict, with numbers for parameters.
            full_tensors: read by nothing: tensors are always written whole, in the checkpointer's format.
            dir_prefix: "step" names the folder by ``training_progress.steps_run``.

        Raises:
            CheckpointError: the storage failed; folders written before are untouched.
        """
        size, rank = get_world_size_and_rank()
        unfinished = training_progress.epochs_run < training_progress.total_epochs
        device = get_device(self._cfg.get("device"))
        whole = gather_cpu_state_dict(model, rank == 0, device)
        state = {MODEL_KEY: whole}
        if adapter_config is not None and rank == 0:
            state = _adapter_state(whole, adapter_config, adapter_only)
        if unfinished:
            state[OPT_KEY] = optimizer.state_dict() if single_device else _whole_state(model, optimizer, rank, device)
            state |= training_progress.state_dict()
        if rank == 0:
            self._get_checkpointer().save_checkpoint(
                state, epoch, unfinished, adapter_only, step=training_progress.steps_run, dir_prefix=dir_prefix
            )
        if size > 1:
            dist.barrier()

    def _get_checkpointer(self) -> Any:
        if self._checkpointer is None:
            resume = self._cfg.get("resume_from_checkpoint", False)
            self._checkpointer = config.instantiate(self._cfg.checkpointer, should_load_recipe_state=resume)
        return self._checkpointer


def _adapter_state(whole: dict[str, Any], config: dict[str, Any], adapter_only: bool) -> dict[str, Any]:
    """The adapters of a state dict and what they are, and the model that they merge into."""
    state = {ADAPTER_KEY: get_adapter_state_dict(whole), ADAPTER_CONFIG: config}
    if adapter_only:
        return state
    return state | {MODEL_KEY: get_merged_lora_ckpt(dict(whole), rank=config["r"], alpha=config["lora_alpha"])}


def _whole_state(
    model: nn.Module, optimizer: Optimizer | OptimizerInBackwardWrapper, rank: int, device: Any
) -> dict[str, Any]:
    """The optimizer's state; of one optimizer per parameter, each one's state by the name of its parameter."""
    if not isinstance(optimizer, OptimizerInBackwardWrapper):
        return get_full_optimizer_state_dict(model, optimizer, rank == 0, device)
    return {
        name: get_full_optimizer_state_dict(model, one, rank == 0, device) for name, one in optimizer.optim_map.items()
    }
