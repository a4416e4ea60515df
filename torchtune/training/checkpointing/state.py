"""What a run needs beside the weights to go on exactly: optimizer shards, random state, position and schedule.

Everything here is safetensors or JSON; nothing is unpickled. A small ``recipe_state.pt`` is there for other programs.
"""

import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.training.checkpointing._atomic import RECIPE_STATE, fault
from torchtune.training.checkpointing._io import FileRecord, read_json, storage_errors, write_bytes, write_json
from torchtune.training.checkpointing._safetensors import Info, SafetensorsFile, write_safetensors

STATE = "state.json"
_SEPARATOR = "|"  # between a parameter and a slot; neither has it


@dataclass(frozen=True)
class LocalShard:
    """One process's rows of a tensor.

    Args:
        row_start: the first of these rows in the whole tensor; None when the tensor belongs to this process alone and
            has no meaning for another number of processes.
    """

    tensor: Tensor
    global_shape: tuple[int, ...]
    row_start: int | None = 0


@dataclass(frozen=True)
class Span:
    """The rows of a parameter that this process holds now."""

    global_shape: tuple[int, ...]
    row_start: int
    num_rows: int


@dataclass(frozen=True)
class LoadedState:
    """A saved state, cut to this process's rows.

    Args:
        rng: None when the state was saved by another number of processes.
    """

    optimizer: dict[str, dict[str, Tensor]]
    rng: dict[str, Any] | None
    facts: dict[str, Any]


def state_folder(checkpoint: Path) -> Path:
    """Where the run state of ``output_dir/<name>`` lies: ``output_dir/recipe_state/<name>``."""
    return checkpoint.parent / RECIPE_STATE / checkpoint.name


def save_state(
    folder: Path,
    *,
    rank: int,
    world_size: int,
    optimizer: Mapping[str, Mapping[str, LocalShard]],
    rng: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, FileRecord]:
    """Write this process's part into a folder that exists (``commit_folder`` gives one); gives the files' records.

    Args:
        optimizer: parameter -> slot (for example ``exp_avg``) -> this process's rows; a parameter whose optimizer
            keeps nothing has no slots, but is named.
        rng: as :func:`rng_state` gives it.
        facts: JSON values, the same on all processes; the first one writes them.
    """
    shards = {f"{p}{_SEPARATOR}{slot}": s for p, slots in optimizer.items() for slot, s in slots.items()}
    layout = {k: {"global_shape": list(s.global_shape), "row_start": s.row_start} for k, s in shards.items()}
    optimizer_file, rng_file = _optimizer_file(rank, world_size), _rng_file(rank)
    tensors = {k: v for k, v in rng.items() if isinstance(v, Tensor)}
    values = {k: v for k, v in rng.items() if not isinstance(v, Tensor)}
    about = {"parameters": list(optimizer), "layout": layout}
    records = {
        optimizer_file: _write(folder / optimizer_file, {k: s.tensor for k, s in shards.items()}, about),
        rng_file: _write(folder / rng_file, tensors, {"values": values}),
    }
    if rank == 0:
        records[STATE] = write_json(folder / STATE, {"world_size": world_size, **facts})
    return records


def _optimizer_file(rank: int, world_size: int) -> str:
    return f"optimizer-{rank:05}-of-{world_size:05}.safetensors"


def _rng_file(rank: int) -> str:
    return f"rng-{rank:05}.safetensors"


def _write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> FileRecord:
    infos = {k: Info(tuple(t.shape), t.dtype) for k, t in tensors.items()}
    metadata = {k: json.dumps(v) for k, v in about.items()}
    return write_safetensors(path, infos, ((k, t.cpu()) for k, t in tensors.items()), metadata)


def load_state(folder: Path, *, rank: int, world_size: int, wanted: Mapping[str, Span]) -> LoadedState:
    """Read a state that any number of processes saved.

    Args:
        wanted: the parameters that the optimizer holds, and the rows of each that are this process's.

    Raises:
        CheckpointError: a parameter is absent or of another shape, a file is damaged, or a tensor cannot be split anew.
    """
    facts = read_json(folder / STATE)
    saved_by = facts["world_size"]
    files = [SafetensorsFile(_existing(folder / _optimizer_file(r, saved_by))) for r in range(saved_by)]
    layouts = [json.loads(f.metadata["layout"]) for f in files]
    _check_parameters(folder, set(json.loads(files[0].metadata["parameters"])), set(wanted))
    optimizer: dict[str, dict[str, Tensor]] = {name: {} for name in wanted}
    for key in dict.fromkeys(k for layout in layouts for k in layout):
        parameter, slot = key.split(_SEPARATOR)
        held = [(f, lay[key]) for f, lay in zip(files, layouts) if key in lay]
        optimizer[parameter][slot] = _read_rows(key, held, wanted[parameter], rank, saved_by == world_size)
    rng = _read_rng(_existing(folder / _rng_file(rank))) if saved_by == world_size else None
    return LoadedState(optimizer, rng, facts)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the run state is not complete")
    return path


def _check_parameters(folder: Path, saved: set[str], wanted: set[str]) -> None:
    strange, absent = sorted(saved - wanted), sorted(wanted - saved)
    if strange or absent:
        raise CheckpointError(
            f"the optimizer state in {folder} is of other parameters: {len(strange)} of them are not trained now "
            f"{strange[:3]}, {len(absent)} trained ones are not in it {absent[:3]}. "
            "Resume with the model and the trained layers of the first run."
        )


def _read_rows(
    key: str, held: list[tuple[SafetensorsFile, dict[str, Any]]], span: Span, rank: int, same_world: bool
) -> Tensor:
    """This process's rows of one slot, put together from the files that hold some of them."""
    (first_file, layout), folder = held[0], held[0][0].path.parent
    shape = tuple(layout["global_shape"])
    if layout["row_start"] is None:
        if not same_world:
            raise CheckpointError(f"{folder}: {key} cannot be split anew; resume with as many processes as before")
        return next(f.read(key) for f, _ in held if f.path.name.startswith(f"optimizer-{rank:05}-"))
    if shape[:1] != span.global_shape[:1] and shape[:1] in ((), (1,)):
        return first_file.read(key)  # one value for all rows, for example a step count
    if shape != span.global_shape and (shape[:1] != span.global_shape[:1] or any(n != 1 for n in shape[1:])):
        raise CheckpointError(
            f"{folder}: {key} has shape {list(shape)}, the parameter has {list(span.global_shape)}; "
            "is this another model?"
        )
    return _join_rows(key, held, (span.row_start, span.row_start + span.num_rows))


def _join_rows(key: str, held: list[tuple[SafetensorsFile, dict[str, Any]]], rows: tuple[int, int]) -> Tensor:
    if not held[0][1]["global_shape"]:
        return held[0][0].read(key)
    parts, done = [], rows[0]
    for file, layout in held:
        first, count = layout["row_start"], file.infos[key].shape[0]
        stop = min(rows[1], first + count)
        if first <= done < stop:
            parts.append(file.read(key, (done - first, stop - first)))
            done = stop
    if done != rows[1]:
        raise CheckpointError(f"{held[0][0].path.parent}: rows {done}:{rows[1]} of {key} are in no file")
    if not parts:
        return held[0][0].read(key, (0, 0))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _read_rng(path: Path) -> dict[str, Any]:
    file = SafetensorsFile(path)
    return {k: file.read(k) for k in file.infos} | json.loads(file.metadata["values"])


def rng_state(device: torch.device | None = None) -> dict[str, Any]:
    """The state of the random generators of torch (CPU and ``device``), Python and NumPy."""
    import numpy

    name, keys, position, has_gauss, gauss = numpy.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
    }
    if device is not None and device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device | None = None) -> None:
    """Put back what :func:`rng_state` gave."""
    import numpy

    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy.random.set_state(tuple(state["numpy"]))
    if device is not None and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type], device)


def resume_fault(checkpoint: Path) -> str | None:
    """Why a run cannot go on from ``output_dir/<name>``, or None: the folder and its run state must both verify."""
    if reason := fault(checkpoint):
        return reason
    reason = fault(state_folder(checkpoint))
    return reason and f"its run state {RECIPE_STATE}/{checkpoint.name}: {reason}"


def write_recipe_state(output_dir: Path, values: Mapping[str, Any], name: str = "recipe_state.pt") -> None:
    """Replace ``recipe_state/recipe_state.pt``, the file that torchtune's users know, in one step.

    Args:
        values: tensors and plain values, with torchtune's keys (``seed``, ``epochs_run``, ``steps_run``, ...).
    """
    folder = output_dir / RECIPE_STATE
    buffer = io.BytesIO()
    torch.save(dict(values), buffer)
    with storage_errors(output_dir, buffer.tell()):
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, buffer.getbuffer())
