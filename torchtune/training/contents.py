"""What a checkpoint's folder gets: a whole model, or adapters with or without the model that they merge into."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn

from torchtune.modules.peft import adapter_spec
from torchtune.training.adapters import BaseLost, BaseWeights, merged, whole_adapters
from torchtune.training.checkpointing import Checkpointer
from torchtune.training.checkpointing._io import FileRecord, write_bytes
from torchtune.training.distributed import World, whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contents:
    """Files to be written.

    Args:
        write: fills the folder that it is given; every process calls it, since tensors may have to be gathered.
        bytes: about how much they take.
    """

    write: Callable[[Path], Mapping[str, FileRecord]]
    bytes: int


def contents_of(
    model: nn.Module,
    checkpointer: Checkpointer,
    base: BaseWeights,
    world: World,
    *,
    adapters_only: bool = False,
    files: Mapping[str, str] = MappingProxyType({}),
) -> Contents:
    """What a checkpoint of the model consists of; a collective, so every process must call it.

    Args:
        checkpointer: writes it.
        base: what the model was filled with; adapters are merged into it.
        adapters_only: leave the merged weights out.
        files: name -> text of further files, instead of those of these names that lie beside the base.
    """
    whole = adapter_spec(model) is None
    contents = (
        _whole_model(model, checkpointer, world)
        if whole
        else _adapted_model(model, checkpointer, base, world, adapters_only)
    )
    return replace(contents, write=partial(_write_with, files, contents.write)) if files and world.is_main else contents


def _write_with(
    files: Mapping[str, str], write: Callable[[Path], Mapping[str, FileRecord]], folder: Path
) -> dict[str, FileRecord]:
    records = write(folder)
    return {**records, **{name: write_bytes(folder / name, text.encode()) for name, text in files.items()}}


def _whole_model(model: nn.Module, checkpointer: Checkpointer, world: World) -> Contents:
    parameters = model.state_dict()
    shapes = {k: (tuple(p.shape), p.dtype) for k, p in parameters.items()}
    return Contents(
        lambda to: checkpointer.write(to, _whole_tensors(parameters), shapes, main=world.is_main),
        sum(p.numel() * p.element_size() for p in parameters.values()),
    )


def _whole_tensors(parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with all its rows, on the CPU; every process iterates, since gathering is a collective."""
    for name, tensor in parameters.items():
        yield name, whole(tensor.detach()).cpu()


def _adapted_model(
    model: nn.Module, checkpointer: Checkpointer, base: BaseWeights, world: World, adapters_only: bool
) -> Contents:
    """The base is read from its files again rather than gathered: the main process needs nobody else for it."""
    adapters = whole_adapters(model)
    shapes = {} if adapters_only else dict(base.saved_as)
    shapes |= {k: (tuple(adapters[k].shape), dtype) for k, (_, dtype) in shapes.items() if k in adapters}

    def write(folder: Path) -> dict[str, FileRecord]:
        if not world.is_main:
            return {}
        records, only = {}, adapters_only
        if not only:
            try:
                records = checkpointer.write(folder, merged(model, base.again(), adapters), shapes)
            except BaseLost as e:  # better the adapters alone than nothing of what was trained
                logger.error("%s. The adapters are saved alone, without merged weights.", e)
                _empty(folder)
                only = True
        about = {"base": base.fingerprint, "only": only, "head_dim": model.head_dim}
        return records | checkpointer.write_adapter(folder, adapters, adapter_spec(model), **about)

    adapter_bytes = sum(t.nbytes for t in adapters.values())
    merged_bytes = sum(prod(shape) * dtype.itemsize for shape, dtype in shapes.values())
    return Contents(write, 2 * adapter_bytes + merged_bytes)  # adapters are written in two formats


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
