"""Layers that hold their weight in 4 bits: products, gradients, state dicts, moves."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchtune.modules
from torchtune.errors import CheckpointError
from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.modules.low_precision.nf4 import dequantize_nf4, hold_nf4, is_quantised, nf4_of, quantize_nf4, stored


def restored(weight: Tensor) -> Tensor:
    return dequantize_nf4(quantize_nf4(weight.detach()))


def pair(bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, FrozenNF4Linear]:
    torch.manual_seed(0)
    linear = nn.Linear(128, 6, bias=bias, dtype=dtype)
    return linear, FrozenNF4Linear.from_linear(linear)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_product_and_gradient_are_those_of_the_restored_weight(bias, dtype):
    linear, layer = pair(bias, dtype)
    x = torch.randn(2, 3, 128, dtype=dtype, requires_grad=True)
    results = []
    for y in (layer(x), F.linear(x, restored(linear.weight), linear.bias)):
        results.append((y, *torch.autograd.grad(y.float().square().sum(), x)))
    assert all(torch.equal(ours, expected) for ours, expected in zip(*results))


def test_backward_keeps_nothing_but_what_the_layer_holds():
    _, layer = pair()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(3, 128, requires_grad=True)).sum().backward()
    held = {t.data_ptr() for t in (*layer.parameters(), *layer.buffers())}
    assert kept and {t.data_ptr() for t in kept} <= held


def test_what_a_layer_holds():
    linear, layer = pair()
    assert torchtune.modules.FrozenNF4Linear is FrozenNF4Linear and isinstance(layer, nn.Linear)
    assert is_quantised(layer) and not is_quantised(linear)
    found = {n: (t.dtype, tuple(t.shape), t.requires_grad) for n, t in layer.named_parameters()}
    assert found == {
        "weight": (torch.uint8, (6, 64), False),
        "weight_scale": (torch.int8, (6, 2), False),
        "bias": (torch.float32, (6,), False),
    }
    assert {n: tuple(b.shape) for n, b in layer.named_buffers()} == {
        "weight_scale_factor": (1,),
        "weight_scale_mean": (),
    }
    small = FrozenNF4Linear(128, 6, block_size=32, scaler_block_size=8)
    assert (nf4_of(small).block_size, nf4_of(small).scaler_block_size) == (32, 8)
    assert small.weight_scale.shape == (6, 4) and small.weight_scale_factor.shape == (3,)


def test_a_new_layer_starts_as_a_linear_one():
    torch.manual_seed(0)
    weight = nn.Linear(128, 6).weight
    torch.manual_seed(0)
    assert torch.equal(FrozenNF4Linear(128, 6).state_dict()["weight"], restored(weight))


def test_state_dict_shows_and_takes_a_float_weight():
    linear, layer = pair()
    state = layer.state_dict()
    assert list(state) == ["weight", "bias"]
    assert torch.equal(state["weight"], restored(linear.weight)) and torch.equal(state["bias"], linear.bias)
    model = nn.Sequential(FrozenNF4Linear(128, 6, bias=True, dtype=torch.bfloat16))
    model.load_state_dict(nn.Sequential(linear).state_dict())
    assert torch.equal(model.state_dict()["0.weight"], restored(linear.weight.bfloat16()))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert torch.equal(torch.load(file)["weight"], state["weight"])


def test_loading_reports_only_the_float_weight():
    _, layer = pair()
    before = layer.state_dict()["weight"]
    missing, unexpected = layer.load_state_dict({"lora_a.weight": torch.zeros(1)}, strict=False)
    assert (missing, unexpected) == (["weight", "bias"], ["lora_a.weight"])
    assert torch.equal(layer.state_dict()["weight"], before)
    for wrong in (torch.zeros(5, 128), torch.zeros(6, 128, dtype=torch.uint8)):
        with pytest.raises(CheckpointError, match=r"0\.weight is .* must be a float \[6, 128\]"):
            nn.Sequential(layer).load_state_dict({"0.weight": wrong}, strict=False)


def test_on_the_meta_device_there_are_shapes_only():
    with torch.device("meta"):
        layer = FrozenNF4Linear.from_linear(nn.Linear(128, 6, dtype=torch.bfloat16))
    assert all(t.is_meta for t in (*layer.parameters(), *layer.buffers()))
    shown = layer.state_dict()["weight"]
    assert shown.is_meta and shown.shape == (6, 128) and shown.dtype == torch.bfloat16
    linear, _ = pair(dtype=torch.bfloat16)
    layer.to_empty(device="cpu").load_state_dict(linear.state_dict())
    assert torch.equal(layer.state_dict()["weight"], restored(linear.weight))


def test_real_weights_are_quantised_under_a_meta_device_too():
    linear, layer = pair()
    with torch.device("meta"):
        twin = FrozenNF4Linear.from_linear(linear)
    assert torch.equal(twin.state_dict()["weight"], layer.state_dict()["weight"])


def test_moves_and_copies():
    linear, layer = pair()
    twin = copy.deepcopy(layer)
    twin.load_state_dict({"weight": torch.zeros(6, 128), "bias": torch.zeros(6)})
    assert torch.equal(layer.state_dict()["weight"], restored(linear.weight))
    half = copy.deepcopy(layer).to(torch.bfloat16)
    assert half.weight.dtype == torch.uint8 and half.weight_scale.dtype == torch.int8
    assert half.state_dict()["weight"].dtype == half(torch.zeros(1, 128, dtype=torch.bfloat16)).dtype == torch.bfloat16
    torch.testing.assert_close(half.state_dict()["weight"].float(), layer.state_dict()["weight"], rtol=0.02, atol=1e-3)


def test_how_a_whole_tensor_is_stored():
    linear, layer = pair(dtype=torch.bfloat16)
    full = torch.randn(6, 128)
    parts = stored(layer, "weight", full)
    own = dict(layer.named_parameters()) | dict(layer.named_buffers())
    assert {n: (t.shape, t.dtype) for n, t in parts.items()} == {n: (own[n].shape, own[n].dtype) for n in parts}
    layer.load_state_dict({"weight": full}, strict=False)
    assert len(parts) == 4 and all(torch.equal(own[name], tensor) for name, tensor in parts.items())
    assert stored(linear, "weight", full) == {"weight": full}
    assert stored(layer, "bias", full) == {"bias": full}


def test_any_module_can_hold_one():
    module = nn.Module()
    hold_nf4(module, (3, 64), torch.bfloat16)
    module.load_state_dict({"weight": torch.ones(3, 64)})
    assert torch.equal(module.state_dict()["weight"], torch.ones(3, 64, dtype=torch.bfloat16))


def test_the_width_must_be_whole_blocks():
    with pytest.raises(ValueError, match="multiple of the block size"):
        FrozenNF4Linear(100, 6)
