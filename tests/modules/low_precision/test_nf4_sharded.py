"""A model with 4-bit weights gives the same split over two processes (FSDP2) as in one."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from two_processes import in_two_processes

from torchtune.errors import CheckpointError
from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.training.activations import recompute_in_backward
from torchtune.training.distributed import World, local_part, local_rows, shard, whole

WIDTH = 192  # three blocks a row, so groups of 256 blocks end inside rows


class Layer(nn.Module):
    """8-bit integers, frozen and trained bfloat16 in one group; 131 rows are 66 and 65, three rows are two and one."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.up_b = FrozenNF4Linear(WIDTH, 131, bias=True), nn.Linear(4, 131, bias=False)
        self.few = FrozenNF4Linear(WIDTH, 3)
        self.lora_a = nn.Linear(WIDTH, 4, bias=False)
        self.down = nn.Linear(131 + 3, WIDTH).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x) + self.up_b(self.lora_a(x))
        return x + self.down(torch.cat([up, self.few(x)], dim=-1).tanh())


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.output = FrozenNF4Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.output(x)


def one_process() -> tuple[Model, dict[str, Tensor]]:
    """The model and the float weights in it."""
    torch.manual_seed(0)
    model = Model().bfloat16()
    floats = {name: torch.randn_like(t) / 14 for name, t in model.state_dict().items()}
    model.load_state_dict(floats)
    return model, floats


def two_processes(world: World, floats: dict[str, Tensor], *, recompute: bool = False, reshard: bool = True) -> Model:
    """The way that a recipe goes: on the meta device, split, then given storage and content."""
    with torch.device("meta"):
        model = Model().bfloat16()
    if recompute:
        for layer in model.layers:
            recompute_in_backward(layer)
    shard(model, world, reshard_after_forward=reshard)
    assert all(isinstance(t, DTensor) and t.is_meta for t in model.state_dict().values())
    model.to_empty(device="cpu")
    model.load_state_dict({name: local_part(t, like=model.get_parameter(name)) for name, t in floats.items()})
    return model


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x.requires_grad_().grad = None
    y = model(x)
    y.float().square().sum().backward()
    return y, x.grad


def _same_steps(world: World) -> None:
    plain, floats = one_process()
    for recompute, reshard in itertools.product([False, True], repeat=2):
        model = two_processes(world, floats, recompute=recompute, reshard=reshard)
        for step in torch.randn(2, 2, 7, WIDTH, dtype=torch.bfloat16):  # two steps of two processes
            _same_step(world, model, plain, step)


def _same_step(world: World, model: Model, plain: Model, batches: Tensor) -> None:
    model.zero_grad()
    plain.zero_grad()
    expected = [run(plain, x.clone()) for x in batches]
    y, x_grad = run(model, batches[world.rank].clone())
    assert torch.equal(y, expected[world.rank][0]) and torch.equal(x_grad, expected[world.rank][1])
    for (name, p), q in zip(model.named_parameters(), plain.parameters()):
        assert (p.grad is None) == (q.grad is None) == (not q.requires_grad), name
        if q.requires_grad:  # FSDP averages, in float32
            torch.testing.assert_close(whole(p.grad), q.grad / 2, rtol=0.02, atol=0.02)


def test_the_same_outputs_and_gradients():
    in_two_processes(_same_steps)


def _pieces(world: World) -> None:
    plain, floats = one_process()
    model = two_processes(world, floats)
    for (name, p), q in zip(model.named_parameters(), plain.parameters()):
        rows, first = local_rows(p.detach())
        assert torch.equal(rows, q[first : first + len(rows)]), name  # a weight is quantised whole, then split
    expected, shown = plain.state_dict(), model.state_dict()
    assert shown.keys() == expected.keys()
    for name, tensor in shown.items():
        assert tensor.placements == model.get_parameter(name).placements
        assert torch.equal(tensor.to_local(), local_part(expected[name], like=tensor).to_local())
    model.load_state_dict({"output.weight": floats["layers.0.few.weight"].repeat(2, 1)[:5]}, strict=False)  # whole
    assert torch.equal(whole(model.output.weight)[:3], plain.layers[0].few.weight)
    mine = shown["layers.0.up.weight"].to_local()
    with pytest.raises(CheckpointError, match=r"layers.0.up.weight .* \[131, 192\]"):
        model.load_state_dict({"layers.0.up.weight": mine}, strict=False)


def test_pieces_and_state_dicts():
    in_two_processes(_pieces)
