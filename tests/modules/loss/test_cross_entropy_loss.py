"""The projection and cross-entropy in one, against torch's own on float64 logits."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from torchtune.modules.loss import CEWithChunkedOutputLoss, LinearCrossEntropyLoss, cross_entropy_loss
from torchtune.modules.loss.cross_entropy_loss import linear_cross_entropy
from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.modules.peft import DoRALinear, LoRALinear


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


class Results(TorchDispatchMode):
    """Shapes of all tensors that are computed while it is open."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if isinstance(result, torch.Tensor) and not function.is_view:
            self.shapes.append(tuple(result.shape))
        return result


@pytest.mark.parametrize("kept", [0, 1 << 30], ids=["projected_twice", "kept"])
@pytest.mark.parametrize("trained", ["hidden", "weight", "both"])
def test_only_what_is_trained_costs_memory(monkeypatch, trained, kept):
    monkeypatch.setattr(cross_entropy_loss, "_KEPT_BYTES_ON_CPU", kept)
    hidden, weight, targets = sample()
    hidden.requires_grad_(trained != "weight"), weight.requires_grad_(trained != "hidden")
    loss = linear_cross_entropy(hidden, weight, targets)
    with Results() as made:
        loss.backward()
    assert (tuple(weight.shape) in made.shapes) == (trained != "hidden")
    assert (hidden.grad is None, weight.grad is None) == (trained == "weight", trained == "hidden")
    _, *expected = reference(hidden.detach(), weight.detach(), targets)
    for tensor, truth in zip((hidden, weight), expected):
        if tensor.requires_grad:
            torch.testing.assert_close(tensor.grad.double(), truth, rtol=1e-4, atol=1e-5)


def adapted(kind=LoRALinear, dtype=torch.float32, **settings):
    torch.manual_seed(1)
    projection = kind(24, 1111, 4, 8.0, **settings).to(dtype)
    torch.nn.init.normal_(projection.lora_b.weight, std=0.3)
    return projection


def whole_logits(projection, hidden, targets):
    return F.cross_entropy(projection(hidden).float(), targets, ignore_index=-100, reduction="sum")


def from_module(projection):
    loss = LinearCrossEntropyLoss()
    loss.linear_projection = projection
    return loss


PROJECTIONS = {
    "lora": adapted,
    "dora": lambda dtype: adapted(DoRALinear, dtype),
    "bias": lambda dtype: torch.nn.Linear(24, 1111, dtype=dtype),
    "trained_base": lambda dtype: adapted(dtype=dtype).requires_grad_(True),
}


@pytest.mark.parametrize("piece_bytes", [1, 30_000, 1 << 30], ids=["rows", "pieces", "whole"])
@pytest.mark.parametrize("kind", PROJECTIONS)
def test_a_projection_that_does_more_is_asked(monkeypatch, kind, piece_bytes):
    monkeypatch.setattr(cross_entropy_loss, "_PIECE_BYTES_ON_CPU", piece_bytes)
    projection = PROJECTIONS[kind](dtype=torch.float32)
    hidden, _, targets = sample()
    hidden.requires_grad_()
    wanted = [hidden, *(p for p in projection.parameters() if p.requires_grad)]
    found, expected = from_module(projection).total(hidden, targets), whole_logits(projection, hidden, targets)
    torch.testing.assert_close(found, expected)
    for mine, truth in zip(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-5)


def test_a_quantised_projection_is_not_read_as_if_it_were_plain():
    projection, targets = FrozenNF4Linear(64, 512), torch.arange(6)
    hidden = torch.randn(6, 64, requires_grad=True)
    found, expected = from_module(projection).total(hidden, targets), whole_logits(projection, hidden, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, hidden)[0] for loss in (found, expected)))


def test_pieces_of_an_adapted_projection_are_not_kept(monkeypatch):
    monkeypatch.setattr(cross_entropy_loss, "_PIECE_BYTES_ON_CPU", 5 * 4 * 1111)
    projection, (hidden, _, targets) = adapted(), sample()
    hidden.requires_grad_()
    kept = []
    with (
        Results() as made,
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t),
    ):
        from_module(projection).total(hidden, targets).backward()
    assert max(shape[0] for shape in made.shapes if shape[1:] == (1111,)) == 5
    assert max(kept) <= hidden.numel()
    assert not any(shape in ((1111, 24), (24, 1111)) for shape in made.shapes)


def test_dropout_of_an_adapted_projection_is_the_same_when_projected_again():
    projection, (hidden, _, targets) = adapted(dropout=0.5), sample()
    hidden.requires_grad_()
    wanted, counted = (hidden, projection.lora_a.weight, projection.lora_b.weight), targets != -100
    results = []
    for total in (
        lambda: from_module(projection).total(hidden, targets),
        lambda: whole_logits(projection, hidden[counted], targets[counted]),
    ):
        torch.manual_seed(4)
        results.append(torch.autograd.grad(total(), wanted))
    for mine, truth in zip(*results, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-5)


def test_no_target_of_an_adapted_projection():
    projection, (hidden, _, targets) = adapted(), sample()
    loss = from_module(projection).total(hidden.requires_grad_(), torch.full_like(targets, -100))
    loss.backward()
    assert loss == 0 and not hidden.grad.any() and not projection.lora_b.weight.grad.any()


def test_bfloat16_of_an_adapted_projection():
    projection, (hidden, _, targets) = adapted(dtype=torch.bfloat16), sample(dtype=torch.bfloat16)
    found, expected = from_module(projection).total(hidden, targets), whole_logits(projection, hidden, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


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


@pytest.mark.parametrize("size", [1.0, 40.0], ids=["usual", "beyond the range of exp"])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_below_a_frozen_weight_the_gradient_is_the_same(size, factor):
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 16), torch.randn(1500, 16) * size
    targets = torch.tensor([3, -100, 1499, 0, 700, -100, 3])
    found = []
    for frozen in (False, True):
        x = hidden.clone().requires_grad_()
        loss = linear_cross_entropy(x, weight.clone().requires_grad_(not frozen), targets)
        (loss * factor).backward()
        found.append((loss.detach(), x.grad))
    x = hidden.clone().requires_grad_()
    expected = F.cross_entropy(x @ weight.t(), targets, reduction="sum")
    (expected * factor).backward()
    for loss, grad in found:
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(grad, x.grad, rtol=1e-4, atol=1e-4 * size)
