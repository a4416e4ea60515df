"""The projection and cross-entropy in one, against torch's own on float64 logits."""

import pytest
import torch
import torch.nn.functional as F

from torchtune.modules.loss import CEWithChunkedOutputLoss, LinearCrossEntropyLoss, cross_entropy_loss
from torchtune.modules.loss.cross_entropy_loss import linear_cross_entropy


def reference(hidden, weight, targets):
    h, w = hidden.double().requires_grad_(), weight.double().requires_grad_()
    loss = F.cross_entropy(h @ w.T, targets, ignore_index=-100, reduction="sum")
    loss.backward()
    return loss, h.grad, w.grad


def ours(hidden, weight, targets):
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = linear_cross_entropy(h, w, targets)
    loss.backward()
    return loss, h.grad, w.grad


def sample(n=37, vocab=1111, dim=24, dtype=torch.float32, spread=1.0):
    torch.manual_seed(0)
    hidden, weight = torch.randn(n, dim) * spread, torch.randn(vocab, dim) * 0.5
    targets = torch.randint(0, vocab, (n,))
    targets[::5] = -100
    return hidden.to(dtype), weight.to(dtype), targets


def relative_error(a, b):
    return ((a.double() - b).norm() / b.norm()).item()


@pytest.mark.parametrize("kept", [0, 1 << 30], ids=["projected_twice", "kept"])
@pytest.mark.parametrize("block_bytes", [1, 1 << 30], ids=["many_blocks", "one_block"])
def test_float32_equals_reference(monkeypatch, block_bytes, kept):
    monkeypatch.setattr(cross_entropy_loss, "_KEPT_BYTES_ON_CPU", kept)
    monkeypatch.setattr(cross_entropy_loss, "_BLOCK_BYTES_PER_THREAD", block_bytes)
    monkeypatch.setattr(cross_entropy_loss, "_BLOCK_BYTES_WHEN_KEPT", block_bytes)
    for mine, expected in zip(ours(*sample()), reference(*sample()), strict=True):
        torch.testing.assert_close(mine.double(), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_as_near_to_the_truth_as_float32_logits_of_bfloat16_products():
    hidden, weight, targets = sample(n=200, vocab=4096, dim=64, dtype=torch.bfloat16)
    expected = reference(hidden, weight, targets)
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    plain = F.cross_entropy((h @ w.T).float(), targets, ignore_index=-100, reduction="sum")
    plain.backward()
    for mine, plain_one, truth in zip(ours(hidden, weight, targets), (plain, h.grad, w.grad), expected, strict=True):
        assert relative_error(mine, truth) < max(2.5 * relative_error(plain_one, truth), 2e-3)


def test_a_confident_token_keeps_its_small_gradient():
    """With p = 0.9999 the gradient is p - 1; rounding p to bf16 before the subtraction would lose it."""
    torch.manual_seed(0)
    weight = torch.randn(512, 32).bfloat16()
    targets = torch.arange(0, 512, 16)
    hidden = (weight[targets].float() / weight[targets].float().norm(dim=1, keepdim=True) * 3.2).bfloat16()
    expected = reference(hidden, weight, targets)
    assert (expected[0] / len(targets)).item() < 1e-2
    for mine, truth in zip(ours(hidden, weight, targets), expected, strict=True):
        assert relative_error(mine, truth) < 0.02


@pytest.mark.parametrize("spread", [100.0, 0.0])
def test_logits_outside_the_range_of_exp(spread):
    hidden, weight, targets = sample(spread=spread)
    mine, expected = ours(hidden, weight, targets), reference(hidden, weight, targets)
    assert torch.isfinite(mine[0])
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-3)


def test_float16_does_not_overflow():
    hidden, weight, targets = sample(dtype=torch.float16, spread=3.0)
    loss, grad, _ = ours(hidden, weight, targets)
    expected = reference(hidden, weight, targets)
    torch.testing.assert_close(loss.double(), expected[0], rtol=1e-3, atol=1e-2)
    assert grad.dtype == torch.float16


def test_no_target_gives_zero_and_zero_gradients():
    hidden, weight, targets = sample()
    loss, grad_hidden, grad_weight = ours(hidden, weight, torch.full_like(targets, -100))
    assert loss == 0 and not grad_hidden.any() and not grad_weight.any()


def test_a_frozen_projection_gets_no_gradient():
    hidden, weight, targets = sample()
    hidden.requires_grad_()
    linear_cross_entropy(hidden, weight, targets).backward()
    assert weight.grad is None
    expected = reference(hidden.detach(), weight, targets)[1]
    torch.testing.assert_close(hidden.grad.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_that_arrives_is_passed_on():
    hidden, weight, targets = sample()
    hidden.requires_grad_()
    (linear_cross_entropy(hidden, weight, targets) * 0.25).backward()
    expected = reference(hidden.detach(), weight, targets)[1] * 0.25
    torch.testing.assert_close(hidden.grad.double(), expected, rtol=1e-4, atol=1e-5)


def test_module_forms_are_means_over_targets():
    hidden, weight, targets = sample()
    hidden, targets = hidden.view(1, 37, 24), targets.view(1, 37)
    head = torch.nn.Linear(24, 1111, bias=False)
    head.weight.data.copy_(weight)
    model = torch.nn.Module()
    model.output = head
    loss = LinearCrossEntropyLoss()
    loss.set_model_output(model)
    assert model.skip_output_layer
    expected = F.cross_entropy(head(hidden)[0], targets[0], ignore_index=-100)
    torch.testing.assert_close(loss(hidden, targets), expected)
    pieces = list(head(hidden).tensor_split(8, dim=1))
    torch.testing.assert_close(CEWithChunkedOutputLoss()(pieces, targets), expected)


def test_pieces_that_a_recipe_chunks_by_itself_add_up():
    hidden, weight, targets = sample()
    loss = LinearCrossEntropyLoss()
    loss.linear_projection = torch.nn.Linear(24, 1111, bias=False)
    loss.linear_projection.weight.data.copy_(weight)
    kept, labels = loss.mask_inputs(hidden.view(1, 37, 24), targets.view(1, 37))
    assert kept.shape == (29, 24) and (labels != -100).all()
    chunks = zip(kept.tensor_split(3), labels.tensor_split(3), strict=True)
    total = sum(loss.compute_cross_entropy(*chunk) for chunk in chunks)
    torch.testing.assert_close(total.double(), reference(hidden, weight, targets)[0], rtol=1e-5, atol=1e-5)


def test_a_second_backward_gives_the_same():
    hidden, weight, targets = sample()
    hidden.requires_grad_(), weight.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets)
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    again = torch.autograd.grad(loss, (hidden, weight))
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
