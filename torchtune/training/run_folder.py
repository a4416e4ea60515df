"""A run's output folder: who holds it, from where the run can go on, and how a checkpoint gets into it."""

import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from torchtune.errors import ConfigError, NonFiniteError
from torchtune.training._torchao import empty_state
from torchtune.training.checkpointing._atomic import (
    MANIFEST,
    checkpoints,
    commit_folder,
    facts_of,
    newest_complete,
    prune,
    sweep,
)
from torchtune.training.checkpointing._io import read_json, record_of, write_json
from torchtune.training.checkpointing._lock import OutputLock
from torchtune.training.checkpointing.state import (
    LoadedState,
    LocalShard,
    Span,
    load_state,
    resume_fault,
    rng_state,
    save_state,
    set_rng_state,
    state_folder,
    write_recipe_state,
)
from torchtune.training.contents import Contents
from torchtune.training.distributed import World, local_rows
from torchtune.training.optim import InBackward, hyperparameters

RUN_STATE = "run_state.json"
_PART = "."  # between a slot and a part of its value
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
        ConfigError: it is a checkpoint itself.
    """

    def __init__(self, output_dir: str | Path, world: World, keep_last_n: int | None = None) -> None:
        self.path, self.world, self.keep_last_n = Path(output_dir), world, keep_last_n
        if (self.path / MANIFEST).is_file():
            raise ConfigError(
                f"output_dir {self.path} is a checkpoint; set output_dir={self.path.parent} to go on with the run that "
                "wrote it, or name another folder"
            )
        self._lock = OutputLock(self.path) if world.is_main else None
        if world.is_main:
            sweep(self.path)
        world.barrier()

    def status(self) -> dict[str, Any]:
        """What the last run in this folder noted of itself; empty when there was none."""
        path = self.path / RUN_STATE
        found = read_json(path) if self.world.is_main and path.is_file() else {}
        return self.world.broadcast(found)

    def begin(self, point: ResumePoint | None) -> None:
        """Note that training runs: the same run as before from ``point``, or else a new one in this folder."""
        before = self.status().get("run", 0)
        self.run = before + 1 if point is None else point.facts.get("run", before)
        if point is not None or not self.world.is_main:
            return self.note("running")
        if earlier := [p.name for p in checkpoints(self.path)]:
            logger.warning(
                "%s holds checkpoints from an earlier run (%s). This one starts afresh and replaces those whose names "
                "it uses.",
                self.path,
                ", ".join(earlier),
            )
        write_json(self.path / RUN_STATE, {"run": self.run, "status": "running"})

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
            path, _ = newest_complete(self.path, self._resume_fault)
            if path is None:
                logger.warning(
                    "resume_from_checkpoint is True, but %s holds no checkpoint to go on from; starting afresh.",
                    self.path,
                )
            else:
                found = ResumePoint(path, read_json(state_folder(path) / "state.json"))
                logger.info("Resuming from %s: its files are whole (sizes and sha256).", path)
        return self.world.broadcast(found)

    def _resume_fault(self, checkpoint: Path) -> str | None:
        """Why the run that was last here cannot go on from a checkpoint, or None."""
        if reason := resume_fault(checkpoint):
            return reason
        facts, run = facts_of(checkpoint), self._last_facts().get("run")
        if run is not None and facts.get("run", run) != run:
            return "an earlier run in this folder wrote it"
        if facts.get("state", found := _hash_of_manifest(checkpoint)) != found:
            return f"its run state {state_folder(checkpoint)} is of another save"
        return None

    def save(
        self,
        name: str,
        contents: Contents,
        model: nn.Module,
        optimizer: Optimizer,
        facts: Mapping[str, Any],
        *,
        protect: Collection[Path] = (),
    ) -> Path:
        """Commit the checkpoint ``name``: first the run state, then the weights, so that a complete folder has both.

        Args:
            contents: the weights.
            facts: JSON values that the run needs to go on; ``step`` orders checkpoints, ``val_loss`` tells the best.
            protect: folders that stay, however old: the one that training began from.

        Raises:
            NonFiniteError: a weight is NaN or infinite; nothing is written.
            CheckpointError: the storage failed.
        """
        world, final = self.world, self.path / name
        self._check_finite(name, model)
        own = {"main": world.is_main, "gather": world.gather}
        state = {"rank": world.rank, "world_size": world.size, "optimizer": _shards(model, optimizer)}
        state |= {"rng": rng_state(world.device), "facts": {**facts, "run": self.run}}
        stamp = {"step": facts["step"], "run": self.run}
        state_bytes = sum(s.tensor.nbytes for slots in state["optimizer"].values() for s in slots.values())
        commit_folder(
            state_folder(final),
            lambda to: save_state(to, **state),
            facts=stamp,
            needed_bytes=state_bytes * world.size,
            **own,
        )
        if world.is_main:  # a crash from here on would otherwise leave it beside the weights of an earlier save
            stamp["state"] = _hash_of_manifest(final)
        commit_folder(final, contents.write, facts=stamp, needed_bytes=contents.bytes, **own)
        best = self._note_if_best(name, facts.get("val_loss"))
        if world.is_main:
            write_recipe_state(self.path, _torchtune_keys(facts))
            kept = [*protect, *([] if best is None else [self.path / best])]
            prune(self.path, self.keep_last_n, keep_states=_STATES_KEPT, protect=kept)
        self.note("running", last_checkpoint=name, step=facts["step"])
        return final

    def _note_if_best(self, name: str, val_loss: float | None) -> str | None:
        """The checkpoint with the lowest validation loss so far, noted in the run's state; only the main one knows."""
        if not self.world.is_main:
            return None
        known = self._last_facts()
        if val_loss is not None and val_loss < known.get("best_val_loss", math.inf):
            self.note("running", best_checkpoint=name, best_val_loss=val_loss)
            return name
        return known.get("best_checkpoint")

    def _check_finite(self, name: str, model: nn.Module) -> None:
        """The last step may have been too large for the weights' dtype, which no loss has shown yet."""
        trained = {key: p.detach() for key, p in model.named_parameters() if p.requires_grad}
        bad = [key for key, p in trained.items() if not local_rows(p)[0].isfinite().all()]
        if bad := [key for keys in self.world.gather(bad) for key in keys]:
            raise NonFiniteError(
                f"{name} is not saved: {len(set(bad))} weight(s) are NaN or infinite after this step, among them "
                f"{bad[0]}. Lower the learning rate or set clip_grad_norm; earlier checkpoints are untouched."
            )

    def load_state(self, point: ResumePoint, model: nn.Module, optimizer: Optimizer) -> None:
        """Put back the optimizer's state and the random state that were saved with a checkpoint."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        wanted = {name: _span(p) for name, p in trained.items()}
        loaded = load_state(state_folder(point.path), rank=self.world.rank, world_size=self.world.size, wanted=wanted)
        _fill_optimizer(optimizer, trained, loaded, point.facts["groups"])
        if loaded.rng is None:
            logger.warning(
                "The checkpoint was written by another number of processes: dropout will differ from then on."
            )
        else:
            set_rng_state(loaded.rng, self.world.device)

    def close(self) -> None:
        """Let another run have the folder."""
        if self._lock is not None:
            self._lock.close()


def _hash_of_manifest(checkpoint: Path) -> str:
    """Stands for the whole run state of a checkpoint, since its manifest has the hashes of all files."""
    return record_of(state_folder(checkpoint) / MANIFEST).sha256


def _shards(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, LocalShard]]:
    state = optimizer.state
    return {  # also of an optimizer that keeps nothing, such as SGD: its parameters are named
        name: {at: shard for slot, value in state.get(p, {}).items() for at, shard in _slots(slot, value)}
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def _slots(slot: str, value: Any) -> Iterator[tuple[str, LocalShard]]:
    """What is saved of one slot: its rows, or the parts of a quantised value, whose groups no row bounds."""
    if value is None:
        return
    tensor = value if isinstance(value, Tensor) else torch.tensor(value)
    rows, start = local_rows(tensor)
    if not is_traceable_wrapper_subclass(rows):
        yield slot, LocalShard(rows, tuple(tensor.shape), start)
        return
    for name in rows.__tensor_flatten__()[0]:
        part = getattr(rows, name)
        yield f"{slot}{_PART}{name}", LocalShard(part, tuple(part.shape), None)


def _span(parameter: Tensor) -> Span:
    rows, start = local_rows(parameter)
    return Span(tuple(parameter.shape), start, rows.shape[0])


def _fill_optimizer(
    optimizer: Optimizer, trained: Mapping[str, Tensor], loaded: LoadedState, groups: list[dict[str, Any]]
) -> None:
    if len(groups) != len(optimizer.param_groups):
        raise ConfigError(
            f"the checkpoint's optimizer has {len(groups)} parameter groups, this run's has "
            f"{len(optimizer.param_groups)}; resume with the optimizer of the first run"
        )
    for group, saved in zip(optimizer.param_groups, groups):
        _say_what_changed(group, saved)
        group |= {k: _in_the_form_of(group.get(k), v) for k, v in saved.items()}
    for name, slots in loaded.optimizer.items():
        p = trained[name]
        owner = optimizer.optimizers[p] if isinstance(optimizer, InBackward) else optimizer
        on_device = any(optimizer.defaults.get(k) for k in ("fused", "capturable"))
        plain = {slot: value for slot, value in slots.items() if _PART not in slot}
        owner.state[p] = {slot: _like(p, value) if value.dim() or on_device else value for slot, value in plain.items()}
        parts = {slot: value for slot, value in slots.items() if _PART in slot}
        for slot in dict.fromkeys(at.partition(_PART)[0] for at in parts):
            owner.state[p][slot] = _joined(slot, parts, owner, p)


def _joined(slot: str, parts: Mapping[str, Tensor], optimizer: Optimizer, p: Tensor) -> Tensor:
    """A quantised value of its saved parts."""
    made = empty_state(optimizer, p, slot)
    rows, _ = local_rows(made)
    for name in rows.__tensor_flatten__()[0]:
        getattr(rows, name).copy_(parts[f"{slot}{_PART}{name}"])
    return made


def _in_the_form_of(now: Any, saved: Any) -> Any:
    """A group's saved value as the optimizer wants it; some keep their learning rate in a tensor."""
    if isinstance(now, Tensor):
        return torch.full_like(now, saved)
    return tuple(saved) if isinstance(now, tuple) else saved


def _say_what_changed(group: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    scheduled = "initial_lr" in saved
    for key, value in saved.items():
        now = list(group[key]) if isinstance(group.get(key), tuple) else group.get(key)
        if now != value and not (scheduled and key == "lr"):
            name = key.removeprefix("initial_")
            logger.warning("optimizer.%s is %s, but the run goes on with %s, as it was saved.", name, now, value)


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A slot's rows on the parameter's device, split over processes as the parameter is if it has a value per row."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor) or value.shape != parameter.to_local().shape:
        return value
    return DTensor.from_local(
        value, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )


def saved_facts(optimizer: Optimizer, **facts: Any) -> dict[str, Any]:
    """What goes into a checkpoint's ``state.json``: the given facts and the optimizer's groups, as JSON values."""
    return json.loads(json.dumps({**facts, "groups": hyperparameters(optimizer)}, default=float))


def _torchtune_keys(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that torchtune's ``recipe_state.pt`` has, for programs that look into it."""
    names = {"seed": "seed", "epochs_run": "epoch", "total_epochs": "epochs", "steps_run": "step"}
    return {theirs: facts[ours] for theirs, ours in names.items() if ours in facts} | {
        "max_steps_per_epoch": facts.get("max_steps_per_epoch")
    }
