"""The fused loss of a model that caps its logits, against torch's own on capped float64 logits."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchtune.models.gemma2 import gemma2, lora_gemma2
from torchtune.modules.loss import CEWithChunkedOutputLoss, LinearCrossEntropyLoss, cross_entropy_loss
from torchtune.modules.peft import LoRALinear
from torchtune.modules.soft_cap import SoftCap

SIZES = {
    "vocab_size": 301,
    "num_layers": 2,
    "num_heads": 4,
    "head_dim": 8,
    "num_kv_heads": 2,
    "embed_dim": 16,
    "intermediate_dim": 32,
    "max_seq_len": 64,
}


def sample(dtype: torch.dtype, spread: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 19, 24) * spread, torch.randn(1111, 24)
    targets = torch.randint(0, 1111, (2, 19))
    targets[:, ::5] = -100
    # The likeliest word of some positions is their label, far beyond the cap.
    targets[:, 3] = (hidden[:, 3] @ weight.T).argmax(-1)
    return hidden.to(dtype), weight.to(dtype), targets


def reference(hidden, weight, targets, cap):
    h, w = hidden.double().requires_grad_(), weight.double().requires_grad_()
    loss = F.cross_entropy((cap * torch.tanh(h @ w.T / cap)).flatten(0, 1), targets.flatten(), ignore_index=-100)
    loss.backward()
    return loss, h.grad, w.grad


def ours(hidden, projection: nn.Module, targets, cap):
    loss = LinearCrossEntropyLoss()
    loss.set_model_output(SimpleNamespace(output=projection, finish_logits=SoftCap(cap)))
    h = hidden.clone().requires_grad_()
    value = loss(h, targets)
    value.backward()
    return value, h.grad, projection.weight.grad


def projection_of(weight: torch.Tensor, trained: bool) -> nn.Linear:
    linear = nn.Linear(*reversed(weight.shape), bias=False, dtype=weight.dtype)
    linear.weight = nn.Parameter(weight.clone(), requires_grad=trained)
    return linear


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b).norm() / b.norm()).item()


@pytest.mark.parametrize("block_bytes", [1, 1 << 30], ids=["many_blocks", "one_block"])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize(("spread", "cap"), [(0.1, 30.0), (10.0, 30.0), (10.0, 1.5), (100.0, 300.0)])
def test_float32_equals_the_reference(monkeypatch, spread, cap, trained, block_bytes):
    monkeypatch.setattr(cross_entropy_loss, "_BLOCK_BYTES_PER_THREAD", block_bytes)
    hidden, weight, targets = sample(torch.float32, spread)
    found = ours(hidden, projection_of(weight, trained), targets, cap)
    expected = reference(hidden, weight, targets, cap)
    for mine, truth in zip(found, expected, strict=True):
        if mine is not None:
            assert relative_error(mine, truth) < 1e-5


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("spread", [0.1, 10.0])
def test_bfloat16_is_nearly_as_good_as_capped_float32_logits_of_bfloat16_products(spread, trained):
    hidden, weight, targets = sample(torch.bfloat16, spread)
    expected = reference(hidden, weight, targets, 30.0)
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    plain = F.cross_entropy(SoftCap(30.0)((h @ w.T).float()).flatten(0, 1), targets.flatten(), ignore_index=-100)
    plain.backward()
    found = ours(hidden, projection_of(weight, trained), targets, 30.0)
    for mine, theirs, truth in zip(found, (plain, h.grad, w.grad), expected, strict=True):
        if mine is not None:
            assert relative_error(mine, truth) < max(3 * relative_error(theirs, truth), 5e-3)


def test_a_projection_with_an_adapter_is_capped_too():
    hidden, weight, targets = sample(torch.float32, 1.0)
    projection = LoRALinear(24, 1111, rank=4, alpha=8)
    projection.weight.data.copy_(weight)
    nn.init.normal_(projection.lora_b.weight)
    found = ours(hidden, projection, targets, 5.0)
    merged = weight + 2 * projection.lora_b.weight.detach() @ projection.lora_a.weight.detach()
    for mine, truth in zip(found[:2], reference(hidden, merged, targets, 5.0)[:2], strict=True):
        torch.testing.assert_close(mine.double(), truth, rtol=1e-4, atol=1e-6)


def test_no_tensor_has_a_column_for_every_word():
    hidden, weight, targets = sample(torch.float32, 1.0)
    projection = projection_of(torch.cat([weight] * 60), trained=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        ours(hidden, projection, targets, 30.0)
    assert max(kept) == projection.weight.numel()


def gradients(model: nn.Module, loss: nn.Module, outputs: torch.Tensor | list, labels) -> dict[str, torch.Tensor]:
    value = loss(outputs, labels)
    value.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"loss": value.detach(), **found}


@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
def test_gemma_2_learns_the_same_from_either_loss(adapters):
    torch.manual_seed(0)
    sizes = SIZES | {"final_capping_value": 2.0}
    model = lora_gemma2(["q_proj", "v_proj"], lora_rank=2, **sizes) if adapters else gemma2(**sizes)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    tokens, labels = torch.randint(0, 301, (2, 2, 17))
    labels[:, :4] = -100
    chunked = CEWithChunkedOutputLoss(num_output_chunks=3)
    model.set_num_output_chunks(3)
    expected = gradients(model, chunked, model(tokens), labels)
    fused = LinearCrossEntropyLoss()
    fused.set_model_output(model)
    found = gradients(model, fused, model(tokens), labels)
    assert found.keys() == expected.keys()
    for name, truth in expected.items():
        torch.testing.assert_close(found[name], truth, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
