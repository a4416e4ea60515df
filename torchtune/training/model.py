"""From a builder and a stream of weights to a model on its devices."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from torchtune.modules import RotaryPositionalEmbeddings
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
    shapes = model.state_dict()
    prepare(model)
    shard(model, world, **sharding)
    cpu_offload = sharding.get("cpu_offload", False) and world.size > 1
    model.to_empty(device="cpu" if cpu_offload else world.device)
    _build_rope_caches(model, world.device)
    fill(model, weights(shapes))
    return model


@torch.no_grad()
def fill(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copy full tensors into the pieces of the model's parameters that this process holds.

    A tensor with fewer rows than its parameter is of a smaller vocabulary: the new rows get the mean of the old ones.
    """
    parameters = dict(model.named_parameters())
    for name, tensor in weights:
        parameter = parameters[name]
        if tensor.shape[0] < parameter.shape[0]:
            mean = tensor.float().mean(dim=0).to(tensor.dtype)
            tensor = torch.cat([tensor, mean.expand(parameter.shape[0] - tensor.shape[0], *mean.shape)])
        parameter.copy_(local_part(tensor.to(parameter.device, parameter.dtype), parameter))


def _build_rope_caches(model: nn.Module, device: torch.device) -> None:
    """A meta-device model has no angles yet, and they are needed where the computation is."""
    with device:
        for module in model.modules():
            if isinstance(module, RotaryPositionalEmbeddings):
                module.rope_init()
