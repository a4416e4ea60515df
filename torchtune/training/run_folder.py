"""A run's output folder: who holds it, from where the run can go on, and how a checkpoint gets into it."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from torchtune.errors import ConfigError
from torchtune.training.checkpointing._atomic import commit_folder, prune, sweep
from torchtune.training.checkpointing._io import read_json, write_json
from torchtune.training.checkpointing._lock import OutputLock
from torchtune.training.checkpointing.state import (
    LoadedState,
    LocalShard,
    Span,
    load_state,
    newest_resumable,
    rng_state,
    save_state,
    set_rng_state,
    state_folder,
    write_recipe_state,
)
from torchtune.training.distributed import World, local_rows, whole
from torchtune.training.optim import InBackward, hyperparameters

RUN_STATE = "run_state.json"
_STATES_KEPT = 2  # optimizer states are twice the model: the newest, and one to fall back on

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint that verified, and what was noted with it."""

    path: Path
    facts: dict[str, Any]


class RunFolder:
    """Holds an output folder for one run. Every process makes one; only the main one touches the disk.

    Args:
        keep_last_n: checkpoints to keep; None keeps all.

    Raises:
        CheckpointError: another run holds the folder, or it cannot be written.
    """

    def __init__(self, output_dir: str | Path, world: World, keep_last_n: int | None = None) -> None:
        self.path, self.world, self.keep_last_n = Path(output_dir), world, keep_last_n
        self._lock = OutputLock(self.path) if world.is_main else None
        if world.is_main:
            sweep(self.path)
        world.barrier()

    def status(self) -> dict[str, Any]:
        """What the last run in this folder noted of itself; empty when there was none."""
        path = self.path / RUN_STATE
        found = read_json(path) if self.world.is_main and path.is_file() else {}
        return self.world.broadcast(found)

    def note(self, status: str, **facts: Any) -> None:
        """Record ``running``, ``interrupted`` or ``completed``, and which checkpoint is the last."""
        if self.world.is_main:
            write_json(self.path / RUN_STATE, {**self._last_facts(), "status": status, **facts})

    def _last_facts(self) -> dict[str, Any]:
        path = self.path / RUN_STATE
        return read_json(path) if path.is_file() else {}

    def resume_point(self) -> ResumePoint | None:
        """The newest checkpoint that verifies, on every process; says which it is, or warns that there is none."""
        found = None
        if self.world.is_main:
            path, _ = newest_resumable(self.path)
            if path is None:
                logger.warning(
                    "resume_from_checkpoint is True, but %s holds no checkpoint to go on from; starting afresh.", self.path
                )
            else:
                found = ResumePoint(path, read_json(state_folder(path) / "state.json"))
                logger.info("Resuming from %s: its files are whole (sizes and sha256).", path)
        return self.world.broadcast(found)

    def save(
        self, name: str, write_weights: Any, model: nn.Module, optimizer: Optimizer, facts: Mapping[str, Any]
    ) -> Path:
        """Commit the checkpoint ``name``: first the run state, then the weights, so that a complete folder can be resumed.

        Args:
            write_weights: ``(folder, tensors, shapes, main) -> file records``, see the checkpointers' ``write``.
            facts: JSON values that the run needs to go on; ``step`` orders checkpoints.
        """
        world, final = self.world, self.path / name
        own = {"main": world.is_main, "gather": world.gather}
        state = {"rank": world.rank, "world_size": world.size, "optimizer": _shards(model, optimizer)}
        state |= {"rng": rng_state(world.device), "facts": facts}
        stamp = {"step": facts["step"]}
        state_bytes = sum(s.tensor.nbytes for slots in state["optimizer"].values() for s in slots.values())
        commit_folder(
            state_folder(final), lambda to: save_state(to, **state), facts=stamp, needed_bytes=state_bytes * world.size, **own
        )
        parameters = model.state_dict()
        shapes = {k: (tuple(p.shape), p.dtype) for k, p in parameters.items()}
        weight_bytes = sum(p.numel() * p.element_size() for p in parameters.values())
        commit_folder(
            final,
            lambda to: write_weights(to, _whole_tensors(parameters), shapes, main=world.is_main),
            facts=stamp,
            needed_bytes=weight_bytes,
            **own,
        )
        if world.is_main:
            write_recipe_state(self.path, _torchtune_keys(facts))
            prune(self.path, self.keep_last_n, keep_states=_STATES_KEPT)
        self.note("running", last_checkpoint=name, step=facts["step"])
        return final

    def load_state(self, point: ResumePoint, model: nn.Module, optimizer: Optimizer) -> None:
        """Put back the optimizer's state and the random state that were saved with a checkpoint."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        wanted = {name: _span(p) for name, p in trained.items()}
        loaded = load_state(state_folder(point.path), rank=self.world.rank, world_size=self.world.size, wanted=wanted)
        _fill_optimizer(optimizer, trained, loaded, point.facts["groups"])
        if loaded.rng is None:
            logger.warning("The checkpoint was written by another number of processes: dropout will differ from then on.")
        else:
            set_rng_state(loaded.rng, self.world.device)

    def close(self) -> None:
        """Let another run have the folder."""
        if self._lock is not None:
            self._lock.close()


def _whole_tensors(parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with all its rows, on the CPU; every process iterates, since gathering is a collective."""
    for name, tensor in parameters.items():
        yield name, whole(tensor.detach()).cpu()


def _shards(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, LocalShard]]:
    state = optimizer.state
    return {
        name: {slot: _shard(value) for slot, value in state[p].items() if value is not None}
        for name, p in model.named_parameters()
        if p in state
    }


def _shard(value: Any) -> LocalShard:
    tensor = value if isinstance(value, Tensor) else torch.tensor(value)
    rows, start = local_rows(tensor)
    return LocalShard(rows, tuple(tensor.shape), start)


def _span(parameter: Tensor) -> Span:
    rows, start = local_rows(parameter)
    return Span(tuple(parameter.shape), start, rows.shape[0])


def _fill_optimizer(
    optimizer: Optimizer, trained: Mapping[str, Tensor], loaded: LoadedState, groups: list[dict[str, Any]]
) -> None:
    if len(groups) != len(optimizer.param_groups):
        raise ConfigError(
            f"the checkpoint's optimizer has {len(groups)} parameter groups, this run's has {len(optimizer.param_groups)}; "
            "resume with the optimizer of the first run"
        )
    for group, saved in zip(optimizer.param_groups, groups):
        group |= {k: tuple(v) if isinstance(group.get(k), tuple) else v for k, v in saved.items()}
    for name, slots in loaded.optimizer.items():
        p = trained[name]
        owner = optimizer.optimizers[p] if isinstance(optimizer, InBackward) else optimizer
        on_device = any(optimizer.defaults.get(k) for k in ("fused", "capturable"))
        owner.state[p] = {
            slot: _like(p, value) if value.dim() or on_device else value for slot, value in slots.items()
        }


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A slot's rows on the parameter's device, split over processes as the parameter is if it has a value per row."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor) or value.shape != parameter.to_local().shape:
        return value
    return DTensor.from_local(
        value, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )


def saved_facts(optimizer: Optimizer, **facts: Any) -> dict[str, Any]:
    """What goes into a checkpoint's ``state.json``: the given facts and the optimizer's groups, as plain JSON values."""
    return json.loads(json.dumps({**facts, "groups": hyperparameters(optimizer)}, default=float))


def _torchtune_keys(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that torchtune's ``recipe_state.pt`` has, for programs that look into it."""
    names = {"seed": "seed", "epochs_run": "epoch", "total_epochs": "epochs", "steps_run": "step"}
    return {theirs: facts[ours] for theirs, ours in names.items() if ours in facts} | {
        "max_steps_per_epoch": facts.get("max_steps_per_epoch")
    }
