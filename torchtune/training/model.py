"""From a builder and a stream of weights to a model on its devices."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from torchtune.modules import RotaryPositionalEmbeddings
from torchtune.modules.low_precision.nf4 import stored
from torchtune.modules.peft import get_adapter_params
from torchtune.training.distributed import World, local_part, shard


@contextmanager
def meta_init(dtype: torch.dtype):
    """Modules made inside have shapes and dtypes but no storage."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(before)


def load_model(
    build: Callable[[], nn.Module],
    weights: Callable[[Mapping[str, Tensor]], Iterable[tuple[str, Tensor]]],
    world: World,
    *,
    dtype: torch.dtype,
    prepare: Callable[[nn.Module], None] = lambda model: None,
    **sharding,
) -> nn.Module:
    """Build on meta, prepare, split over the processes, then copy every weight straight to where it lives.

    Args:
        weights: given names and shapes (a state dict on the meta device), gives each name with its full tensor, one
            at a time, so that host memory holds one tensor and not a second model.
        prepare: changes the finished model in place (recomputation, compilation, adapters).
        sharding: see :func:`torchtune.training.distributed.shard`.
    """
    with meta_init(dtype):
        model = build()
    shapes = base_tensors(model)
    prepare(model)
    shard(model, world, **sharding)
    cpu_offload = sharding.get("cpu_offload", False) and world.size > 1
    model.to_empty(device="cpu" if cpu_offload else world.device)
    place_buffers(model, world.device)
    fill(model, weights(shapes))
    return model


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What the files of a base model fill: the model's state dict without its adapters' tensors."""
    adapters = get_adapter_params(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in adapters}


@torch.no_grad()
def fill(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copy full tensors into the pieces of the model's parameters that this process holds.

    A module that keeps its weight in 4 bits gets it quantised, whole, on the device where it will be. A tensor with
    fewer rows than its parameter is of a smaller vocabulary: the new rows get the mean of the old ones.
    """
    for name, tensor in weights:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        kept = getattr(module, leaf)
        if tensor.shape[0] < kept.shape[0]:
            tensor = _with_mean_rows(tensor, kept.shape[0])
        for part, value in stored(module, leaf, tensor.to(kept.device)).items():
            piece = getattr(module, part)
            piece.copy_(local_part(value.to(piece.dtype), piece))
        del tensor, value  # before the next is read: a stack of experts takes gigabytes


def _with_mean_rows(tensor: Tensor, rows: int) -> Tensor:
    mean = tensor.float().mean(dim=0).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(rows - tensor.shape[0], *mean.shape)])


def place_buffers(model: nn.Module, device: torch.device) -> None:
    """Buffers are never split or offloaded, so they belong where the computation is.

    Angles of positions are computed anew, since a meta-device model has none yet.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device))
        if isinstance(module, RotaryPositionalEmbeddings):
            with device:
                module.rope_init()
