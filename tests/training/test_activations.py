import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torchtune.errors import ConfigError
from torchtune.training.activations import apply_selective_activation_checkpointing


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.mlp = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 8)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.mlp(torch.tanh(self.out(attended.transpose(1, 2).flatten(2))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(5))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def _backward(model):
    torch.manual_seed(1)
    loss = model(torch.randn(2, 6, 8, requires_grad=True)).pow(2).sum()
    with FlopCounterMode(display=False) as flops:
        loss.backward()
    return [param.grad for param in model.parameters()], flops.get_total_flops()


@pytest.mark.parametrize(
    ("mode", "option", "calls"),
    [
        ("full", None, [2, 2, 2, 2, 2]),
        ("selective", 1, [2, 2, 2, 2, 2]),
        ("selective", 2, [1, 2, 1, 2, 1]),
        ("selective", "3", [1, 1, 2, 1, 1]),
        ("selective", "op", [2, 2, 2, 2, 2]),
    ],
)
def test_the_chosen_layers_run_twice_and_the_gradients_stay(mode, option, calls):
    torch.manual_seed(0)
    plain = Model()
    model = copy.deepcopy(plain)
    apply_selective_activation_checkpointing(model, mode, option)
    expected, actual = _backward(plain)[0], _backward(model)[0]
    assert [layer.calls for layer in model.layers] == calls
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))


def test_by_operation_repeats_less_than_whole_layers():
    plain, by_operation, full = Model(), Model(), Model()
    apply_selective_activation_checkpointing(by_operation, "selective", "op")
    apply_selective_activation_checkpointing(full, "full", None)
    flops = [_backward(model)[1] for model in (plain, by_operation, full)]
    assert flops[0] < flops[1] < flops[2]


@pytest.mark.parametrize("choice", [("some", None), ("selective", None), ("selective", 0), ("selective", "ops")])
def test_what_is_not_known_is_refused(choice):
    with pytest.raises(ConfigError, match="ac_"):
        apply_selective_activation_checkpointing(Model(), *choice)


def test_recomputing_layers_can_be_compiled():
    torch.manual_seed(0)
    plain = Model()
    model = copy.deepcopy(plain)
    apply_selective_activation_checkpointing(model, "full", None)
    for layer in model.layers:
        layer.compile(backend="aot_eager")
    expected, actual = _backward(plain)[0], _backward(model)[0]
    torch._dynamo.reset()
    for a, b in zip(actual, expected):
        torch.testing.assert_close(a, b)
