"""One code path for one process or many: with one, collectives are identities and nothing is initialised."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout  # torch has no public name for it
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from torchtune.errors import ConfigError


@dataclass(frozen=True)
class World:
    """This process's place among the others. Knows nothing of models, configs or data."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh | None = None  # None when size is 1

    @property
    def is_main(self) -> bool:
        """True on the one process that speaks and writes."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def max(self, number: int) -> int:
        """The largest of all processes' numbers, everywhere."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def set_timeout(self, seconds: float) -> None:
        """From now on, how long a collective may take before the run is given up."""
        if self.size > 1:
            for group in {dist.group.WORLD, self.mesh.get_group()}:
                _set_pg_timeout(timedelta(seconds=seconds), group)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def broadcast(self, value: Any) -> Any:
        """The main process's value, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in rank order, on every process."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def join(device: torch.device, *, cpu_offload: bool = False, timeout_seconds: float = 1800) -> Iterator[World]:
    """Join the process group that torchrun describes in the environment, or stand alone where there is none.

    Args:
        cpu_offload: parameters rest on the CPU, so collectives are needed there as well.
        timeout_seconds: longest wait in a collective before the run is given up.

    Raises:
        ConfigError: more processes on this machine than it has devices.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        device = _own_gpu()
    backend = _backend(device, cpu_offload)
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    try:
        mesh = init_device_mesh(device.type, (size,), mesh_dim_names=("dp",))
        yield World(dist.get_rank(), size, device, mesh)
    finally:
        dist.destroy_process_group()


def _own_gpu() -> torch.device:
    local_rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(
            f"process {local_rank} of this machine has no GPU: there are {count}. Lower --nproc_per_node to {count}."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _backend(device: torch.device, cpu_offload: bool) -> str:
    backend = dist.get_default_backend_for_device(device)
    return f"{device.type}:{backend},cpu:gloo" if cpu_offload and device.type != "cpu" else backend


def shard(
    model: nn.Module,
    world: World,
    *,
    reduce_dtype: torch.dtype = torch.float32,
    cpu_offload: bool = False,
    reshard_after_forward: bool = True,
    prefetch_layers: int = 1,
) -> None:
    """Split the parameters of every layer over the processes (FSDP2), in place. Does nothing alone.

    What is not in a layer (embedding, last norm, output projection) is one more unit. It stays whole between forward
    and backward, because the loss reads the output projection.

    Args:
        reduce_dtype: gradients are summed over processes in it.
        cpu_offload: parameters, gradients and optimizer state rest on the CPU.
        reshard_after_forward: give a layer's whole parameters up after forward; False is faster and takes more memory.
        prefetch_layers: how many layers ahead parameters are gathered.
    """
    if world.size == 1:
        return
    policy: dict[str, Any] = {
        "mesh": world.mesh,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=reduce_dtype),
        "offload_policy": CPUOffloadPolicy(pin_memory=world.device.type == "cuda") if cpu_offload else OffloadPolicy(),
    }
    for layer in model.layers:
        fully_shard(layer, reshard_after_forward=reshard_after_forward, **policy)
    fully_shard(model, reshard_after_forward=False, **policy)
    _prefetch(list(model.layers), prefetch_layers)


def _prefetch(layers: list[FSDPModule], ahead: int) -> None:
    if ahead < 1:
        return
    for i, layer in enumerate(layers):
        layer.set_modules_to_forward_prefetch(layers[i + 1 : i + 1 + ahead])
        layer.set_modules_to_backward_prefetch(layers[max(0, i - ahead) : i][::-1])


def sync_gradients(model: nn.Module, now: bool) -> None:
    """Add up gradients over processes after the next backward only if ``now``; alone there is nothing to add up."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)


def local_part(full: Tensor, like: Tensor) -> Tensor:
    """The piece of ``full`` that this process holds of ``like``."""
    if not isinstance(like, DTensor):
        return full
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)


def local_rows(x: Tensor) -> tuple[Tensor, int]:
    """This process's rows of x, and the number of its first row in the whole; x itself and 0 when it is not split."""
    if not isinstance(x, DTensor):
        return x, 0
    rows, size = x.shape[0] if x.dim() else 1, x.device_mesh.size()
    per_process = -(-rows // size)
    return x.to_local(), min(x.device_mesh.get_local_rank() * per_process, rows)


def whole(x: Tensor) -> Tensor:
    """x with all its rows, on every process; a collective, so every process must call it."""
    return x.full_tensor() if isinstance(x, DTensor) else x
