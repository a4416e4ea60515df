"""One process and two: collectives, and what a process holds of a split tensor."""

import time

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from two_processes import in_two_processes

from torchtune.errors import ConfigError
from torchtune.training import distributed
from torchtune.training.distributed import World, join, local_part, local_rows, shard, sync_gradients, whole

CPU = torch.device("cpu")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.output = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.output(x)


def test_alone_everything_is_the_identity(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join(CPU) as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.sum(torch.tensor(3.0)) == 3 and world.max(2) == 2
        assert world.broadcast("x") == "x" and world.gather("x") == ["x"]
        world.barrier()
        world.set_timeout(1)
        model, x = Small(), torch.ones(3)
        shard(model, world)
        sync_gradients(model, now=False)
        assert not isinstance(model, FSDPModule)
        assert local_part(x, like=model.output.weight) is x and whole(x) is x
        assert local_rows(x) == (x, 0)
    assert not torch.distributed.is_initialized()


def _collectives(world: World) -> None:
    mine = torch.tensor(world.rank + 1)
    assert world.sum(mine) == 3
    assert world.max(world.rank * 15) == 15
    assert world.broadcast({"rank": world.rank}) == {"rank": 0}
    assert world.gather(world.rank) == [0, 1]
    assert world.is_main == (world.rank == 0)


def _pieces(world: World) -> None:
    torch.manual_seed(0)
    model = Small()
    full = {name: p.detach().clone() for name, p in model.named_parameters()}
    shard(model, world)
    assert all(isinstance(m, FSDPModule) for m in (model, *model.layers))
    for name, p in model.named_parameters():
        assert isinstance(p, DTensor) and torch.equal(whole(p.detach()), full[name])
        rows, first = local_rows(p.detach())
        assert torch.equal(rows, full[name][first : first + len(rows)])  # 5 rows are 3 and 2
        assert torch.equal(local_part(full[name], p).to_local(), rows)
    sync_gradients(model, now=False)
    model(torch.ones(1, 3) * (world.rank + 1)).sum().backward()
    sync_gradients(model, now=True)
    model(torch.ones(1, 3) * (world.rank + 1)).sum().backward()
    plain = Small()
    plain.load_state_dict(full)
    sum(2 * plain(torch.ones(1, 3) * factor).sum() for factor in (1, 2)).div(2).backward()  # FSDP averages
    for p, q in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(whole(p.grad), q.grad)


def _timeout(world: World) -> None:
    world.barrier()
    world.set_timeout(0.5)
    if world.rank == 0:
        started = time.monotonic()
        with pytest.raises(RuntimeError):
            world.sum(torch.tensor(1))
        assert time.monotonic() - started < 10
    else:
        time.sleep(3)


@pytest.mark.parametrize("work", [_collectives, _pieces, _timeout])
def test_two_processes(work):
    in_two_processes(work)


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="Lower --nproc_per_node to 2"):
        distributed._own_gpu()


def test_offloaded_parameters_need_collectives_on_the_cpu_too():
    assert distributed._backend(torch.device("cuda"), cpu_offload=True) == "cuda:nccl,cpu:gloo"
    assert distributed._backend(torch.device("cuda"), cpu_offload=False) == "nccl"
    assert distributed._backend(CPU, cpu_offload=True) == "gloo"
