"""LoRALinear and DoRALinear: names, starts, values against their formulas, a quantised base, switching them off."""

import copy
import math
import os
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules.low_precision.nf4 import dequantize_nf4, quantize_nf4
from torchtune.modules.peft import AdapterModule, DoRALinear, LoRALinear, disable_adapter

IN, OUT, RANK, ALPHA = 64, 12, 4, 6.0
KINDS = pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])


def layer(kind=LoRALinear, dtype=torch.float32, trained=True, **settings) -> LoRALinear:
    """One whose adapter has changed since it began."""
    torch.manual_seed(0)
    made = kind(IN, OUT, RANK, ALPHA, **settings).to(dtype)
    if trained:
        nn.init.normal_(made.lora_b.weight, std=0.3)
        if kind is DoRALinear:
            made.magnitude.data *= torch.rand(OUT) + 0.5
    return made


def sample(dtype=torch.float32) -> Tensor:
    return torch.randn(2, 5, IN, generator=torch.Generator().manual_seed(1)).to(dtype)


def formula(module: LoRALinear, x: Tensor) -> Tensor:
    """Written out, without dropout."""
    weight, a, b = module.weight, module.lora_a.weight, module.lora_b.weight
    if isinstance(module, DoRALinear):
        changed = weight + module.scaling * b @ a
        changed = changed * (module.magnitude / changed.detach().norm(dim=1)).unsqueeze(1)
        return F.linear(x, changed, module.bias)
    return F.linear(x, weight, module.bias) + module.scaling * x @ a.T @ b.T


@KINDS
@pytest.mark.parametrize("settings", [{}, {"use_bias": True}, {"use_rslora": True}], ids=str)
def test_output_and_gradients_are_the_formulas(kind, settings):
    module, x = layer(kind, **settings), sample().requires_grad_()
    wanted = [x, *(p for p in module.parameters() if p.requires_grad)]
    upstream = torch.randn(2, 5, OUT)
    ours, expected = module(x), formula(module, x)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    grads = (torch.autograd.grad(y, wanted, upstream) for y in (ours, expected))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@KINDS
@pytest.mark.parametrize("use_bias", [False, True])
def test_starts_as_its_base(kind, use_bias):
    module, x = layer(kind, trained=False, use_bias=use_bias), sample()
    torch.testing.assert_close(module(x), F.linear(x, module.weight, module.bias))
    assert not module.lora_b.weight.any()
    bound = 1 / math.sqrt(IN)
    drawn = module.lora_a.weight.detach()
    assert drawn.abs().max() <= bound and drawn.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    if kind is DoRALinear:
        torch.testing.assert_close(module.magnitude, module.weight.norm(dim=1))


@KINDS
def test_names_and_what_is_trained(kind):
    module = layer(kind, use_bias=True)
    adapter = ["lora_a.weight", "lora_b.weight", *(["magnitude"] if kind is DoRALinear else [])]
    assert isinstance(module, AdapterModule) and module.adapter_params() == adapter
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    expected = {"weight": (OUT, IN), "bias": (OUT,), "lora_a.weight": (RANK, IN), "lora_b.weight": (OUT, RANK)}
    assert shapes == expected | ({"magnitude": (OUT,)} if kind is DoRALinear else {})
    assert sorted(name for name, p in module.named_parameters() if p.requires_grad) == sorted(adapter)
    assert set(module.state_dict()) == set(shapes)


@pytest.mark.parametrize(("use_rslora", "scaling"), [(False, ALPHA / RANK), (True, ALPHA / 2)])
def test_scaling(use_rslora, scaling):
    assert layer(use_rslora=use_rslora).scaling == scaling


@KINDS
def test_takes_over_a_finished_layer(kind):
    linear = nn.Linear(IN, OUT, dtype=torch.bfloat16)
    module = kind.from_linear(linear, rank=RANK, alpha=ALPHA)
    assert module.weight is linear.weight and module.bias is linear.bias
    assert not module.weight.requires_grad and not module.bias.requires_grad
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    with torch.device("meta"):
        on_meta = kind.from_linear(nn.Linear(IN, OUT), rank=RANK, alpha=ALPHA, quantize_base=True)
    assert all(t.is_meta for t in (*on_meta.parameters(), *on_meta.buffers()))


@KINDS
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quantised_base_equals_the_layer_on_the_dequantised_weight(kind, dropout, dtype):
    quantised = layer(kind, dtype, quantize_base=True, dropout=dropout, use_bias=True)
    plain = layer(kind, dtype, dropout=dropout, use_bias=True)
    plain.load_state_dict(quantised.state_dict())  # which shows the weight as it is computed with
    assert quantised.weight.dtype == torch.uint8 and plain.weight.dtype == dtype
    results = []
    for module in (quantised, plain):
        torch.manual_seed(5)
        x = sample(dtype).requires_grad_()
        y = module(x)
        y.float().square().sum().backward()
        results.append([y, x.grad, *(module.get_parameter(name).grad for name in module.adapter_params())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_quantised_weight_is_that_of_the_plain_one():
    quantised, plain = layer(quantize_base=True), layer()
    assert torch.equal(quantised.state_dict()["weight"], dequantize_nf4(quantize_nf4(plain.weight)))


def test_settings_of_quantisation():
    assert layer(quantize_base=True, block_size=32, scaler_block_size=8).weight_scale.shape == (OUT, 2)
    with pytest.raises(ValueError, match="'block_size'.* quantize_base=True"):
        layer(block_size=32)


@KINDS
def test_bfloat16_is_near_the_float32_layer(kind):
    low = layer(kind, torch.bfloat16)
    exact = copy.deepcopy(low).float()
    y, expected = low(sample(torch.bfloat16)), exact(sample(torch.bfloat16).float())
    assert y.dtype == torch.bfloat16
    assert (y.float() - expected).norm() < 0.01 * expected.norm()


@KINDS
def test_dropout_only_in_training(kind):
    module, x = layer(kind, dropout=0.5), sample()
    y = module(x)
    assert not torch.equal(y, module(x))
    module.eval()
    torch.testing.assert_close(module(x), formula(module, x))
    with disable_adapter(module.train()):
        assert torch.equal(module(x), F.linear(x, module.weight))


@KINDS
@pytest.mark.parametrize("quantize_base", [False, True])
def test_disabled_it_is_its_base(kind, quantize_base):
    module, x = layer(kind, quantize_base=quantize_base, use_bias=True), sample().requires_grad_()
    before = module(x)
    with disable_adapter(nn.Sequential(module)):
        y = module(x)
        assert torch.equal(y, F.linear(x, module.state_dict()["weight"], module.bias))
        y.sum().backward()
        assert x.grad is not None and all(p.grad is None for p in module.parameters())
        with disable_adapter(module):
            pass
        assert torch.equal(module(x), y)
    assert torch.equal(module(x), before)


def test_enabled_again_after_an_error():
    module = layer()
    with pytest.raises(KeyError), disable_adapter(module):
        raise KeyError
    assert not module.disabled


def test_a_row_of_zeros_gives_zeros_and_can_learn():
    module = layer(DoRALinear, trained=False)
    module.weight[3] = 0
    module.initialize_dora_magnitude()
    y = module(sample())
    y.square().sum().backward()
    assert not y[..., 3].any() and all(p.grad.isfinite().all() for p in module.parameters() if p.requires_grad)


@KINDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_of_a_float32_layer(kind, dtype):
    module, x = layer(kind, use_bias=True), sample().requires_grad_()
    with torch.autocast("cpu", dtype):
        y = module(x)
    y.float().sum().backward()
    assert (y.float() - module(x)).norm() < 0.02 * y.float().norm()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in module.parameters() if p.requires_grad)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler for inductor")
@KINDS
@pytest.mark.parametrize("quantize_base", [False, True])
def test_compiled_it_computes_the_same(kind, quantize_base):
    module = layer(kind, quantize_base=quantize_base)
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True)
    results = []
    for one in (module, compiled):
        x = sample().requires_grad_()
        y = one(x)
        y.square().sum().backward()
        results.append([y, x.grad, *(one.get_parameter(name).grad for name in module.adapter_params())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
