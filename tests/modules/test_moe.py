"""Experts and routers against a plain loop over tokens and experts in float64."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from two_processes import in_two_processes

from torchtune.modules import FeedForward
from torchtune.modules.low_precision.nf4 import dequantize_nf4, quantize_nf4
from torchtune.modules.moe import (
    GroupedExperts,
    LoRAGroupedExperts,
    MoE,
    RouterGate,
    TokenChoiceTopKRouter,
    WeightedSumMoE,
    sigmoid_of_chosen,
    softmax_over_all,
    softmax_over_chosen,
)
from torchtune.modules.moe.utils import grouped_product, should_use_grouped_mm
from torchtune.training.activations import recompute_in_backward
from torchtune.training.distributed import World, whole

KINDS = [(MoE, sigmoid_of_chosen), (WeightedSumMoE, softmax_over_all), (WeightedSumMoE, softmax_over_chosen)]
in_every_kind = pytest.mark.parametrize(("kind", "choose"), KINDS)


def moe(kind=WeightedSumMoE, choose=softmax_over_chosen, *, dim=16, hidden=24, experts=5, k=2, shared=False):
    torch.manual_seed(0)
    router = TokenChoiceTopKRouter(
        gate=RouterGate(dim, experts, bias=True), dim=dim, num_experts=experts, experts_per_token=k, choose=choose
    )
    linear = [nn.Linear(dim, hidden), nn.Linear(hidden, dim), nn.Linear(dim, hidden)]
    shared_expert = FeedForward(gate_proj=linear[0], down_proj=linear[1], up_proj=linear[2]) if shared else None
    stacks = GroupedExperts(dim=dim, hidden_dim=hidden, num_experts=experts)
    return kind(experts=stacks, router=router, shared_expert=shared_expert)


def scores_of(logits: list[float], chosen: list[int], choose) -> list[float]:
    if choose is sigmoid_of_chosen:
        return [1 / (1 + math.exp(-logits[e])) for e in chosen]
    among = chosen if choose is softmax_over_chosen else range(len(logits))
    total = sum(math.exp(logits[e]) for e in among)
    return [math.exp(logits[e]) / total for e in chosen]


def answer(experts: GroupedExperts, e: int, x: Tensor) -> Tensor:
    gate = x @ experts.gate_proj[e]
    return (gate * torch.sigmoid(gate) * (x @ experts.up_proj[e])) @ experts.down_proj[e]


def plain(module: MoE, x: Tensor) -> Tensor:
    """The same in float64, one token and one expert at a time; scores are made with Python's numbers."""
    rows = []
    gate, k, choose = module.router.gate, module.router.experts_per_token, module.router.choose
    for token in x.reshape(-1, x.shape[-1]):
        logits = token @ gate.weight.t() + gate.bias
        chosen = sorted(range(len(logits)), key=lambda e: -logits[e].item())[:k]
        scores = _differentiable(logits, chosen, choose)
        torch.testing.assert_close(scores.tolist(), scores_of(logits.tolist(), chosen, choose))
        if type(module) is MoE:
            row = sum(answer(module.experts, e, token * s) for e, s in zip(chosen, scores))
        else:
            row = sum(answer(module.experts, e, token) * s for e, s in zip(chosen, scores))
        rows.append(row if module.shared_expert is None else row + module.shared_expert(token))
    return torch.stack(rows).view_as(x)


def _differentiable(logits: Tensor, chosen: list[int], choose) -> Tensor:
    if choose is sigmoid_of_chosen:
        return logits[chosen].sigmoid()
    return logits[chosen].softmax(0) if choose is softmax_over_chosen else logits.softmax(0)[chosen]


def gradients(module: nn.Module, x: Tensor, forward=None) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    module.zero_grad()
    y = (forward or module)(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (y * weight.to(y.dtype)).sum().backward()
    return {"output": y.detach(), "x": x.grad} | {name: p.grad for name, p in module.named_parameters()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        close = {"rtol": tolerance, "atol": tolerance, "msg": lambda m, name=name: f"{name}: {m}"}
        torch.testing.assert_close(found[name].double(), tensor.double(), **close)


@in_every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "sizes",
    [
        {"experts": 5, "k": 2},
        {"experts": 1, "k": 1},
        {"experts": 4, "k": 4},
        {"experts": 32, "k": 3, "shared": True},  # more than the tokens can reach
        {"experts": 3, "k": 2, "dim": 10, "hidden": 7},  # rows that are no multiple of 16 bytes
    ],
    ids=["some", "one", "all", "empty", "odd"],
)
def test_equals_a_loop(kind, choose, sizes, dtype):
    module = moe(kind, choose, **sizes).to(dtype)
    x = torch.randn(2, 4, sizes.get("dim", 16), dtype=dtype)
    exact = copy.deepcopy(module).double()
    expected = gradients(exact, x.double(), lambda y: plain(exact, y))
    for name, parameter in exact.named_parameters():
        expected[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    # The choice is made in float32 at any dtype.
    assert_same(gradients(module, x), expected, 1e-5 if dtype == torch.float32 else 1e-6)


def test_experts_without_tokens_have_a_gradient_of_zero():
    weight = torch.randn(4, 8, 16, requires_grad=True)
    x = torch.randn(5, 8)
    grouped_product(x, weight, torch.tensor([0, 2, 0, 3])).sum().backward()  # an expanded gradient
    assert torch.equal(weight.grad[[0, 2]], torch.zeros(2, 8, 16))
    torch.testing.assert_close(weight.grad[3], x[2:].sum(0)[:, None].expand(8, 16))


def test_equal_scores_send_a_token_to_different_experts_and_always_to_the_same():
    module = moe(experts=6, k=3)
    nn.init.zeros_(module.router.gate.weight)
    nn.init.zeros_(module.router.gate.bias)
    x = torch.randn(7, 16)
    scores, tokens, counts = module.router(x)
    assert scores.tolist() == pytest.approx([1 / 3] * 21)
    assert counts.sum() == 21 and tokens.bincount().tolist() == [3] * 7 and counts.max() <= 7
    again = module.router(x)
    assert all(torch.equal(one, other) for one, other in zip((scores, tokens, counts), again))
    ends = counts.cumsum(0).tolist()
    for first, last in zip([0, *ends], ends):
        assert len(set(tokens[first:last].tolist())) == last - first  # no expert has a token twice


def test_answers_are_summed_before_they_are_rounded():
    """In bf16, where 256 + 1 is 256."""
    module = moe(experts=4, k=4, dim=8, hidden=8).bfloat16()
    answers = torch.tensor([256.0, 1.0, 1.0, 0.0])
    module.experts.forward = lambda x, counts: answers.bfloat16().repeat_interleave(counts)[:, None].expand(-1, 8)
    module.router.choose = lambda logits, k: (torch.ones(len(logits), 4), torch.arange(4).expand(len(logits), 4))
    assert module(torch.randn(1, 3, 8).bfloat16()).unique().tolist() == [258.0]


def test_compiles_to_one_graph_without_asking_for_the_numbers_of_rows():
    module = moe(shared=True)
    compiled = copy.deepcopy(module)
    compiled.compile(fullgraph=True, backend="aot_eager")
    for tokens in (3, 6):
        x = torch.randn(2, tokens, 16)
        assert_same(gradients(compiled, x), gradients(module, x), 1e-6)


def test_recomputation_gives_the_same():
    module, x = moe(shared=True), torch.randn(2, 4, 16)
    assert_same(gradients(recompute_in_backward(copy.deepcopy(module)), x), gradients(module, x), 0.0)


def test_autocast_multiplies_in_its_dtype():
    module, x = moe(), torch.randn(2, 4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.experts(x[0], torch.tensor([1, 0, 3, 0, 0])).dtype == torch.bfloat16
        found = module(x)
    torch.testing.assert_close(found.float(), module(x), rtol=0.05, atol=0.02)


def test_on_the_meta_device_there_are_shapes_only():
    with torch.device("meta"):
        module = moe(shared=True)
    assert {name: tuple(p.shape) for name, p in module.named_parameters() if "shared" not in name} == {
        "experts.gate_proj": (5, 16, 24),
        "experts.up_proj": (5, 16, 24),
        "experts.down_proj": (5, 24, 16),
        "router.gate.weight": (5, 16),
        "router.gate.bias": (5,),
    }
    module.to_empty(device="cpu").experts.reset_parameters()
    assert 0.2 < module.experts.gate_proj.abs().max() <= 0.25  # 16 ** -0.5, as a linear layer's
    assert 0.18 < module.experts.down_proj.abs().max() <= 24**-0.5


def test_fewer_experts_than_a_multiple_of_the_processes():
    module, x = moe(experts=3, shared=True), torch.randn(2, 5, 16)
    expected = gradients(module, x)
    parameters = {name: expected[name] for name, _ in module.named_parameters()}

    def work(world: World) -> None:
        split = copy.deepcopy(module)
        fully_shard(split, mesh=world.mesh)
        weight = torch.randn(expected["output"].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        own = slice(world.rank, world.rank + 1)
        (split(x[own]) * weight[own].float()).sum().backward()
        found = {name: 2 * whole(p.grad) for name, p in split.named_parameters()}  # gradients are averaged
        assert_same(found, parameters, 1e-5)

    in_two_processes(work)


def test_where_torch_multiplies_groups():
    assert should_use_grouped_mm() and should_use_grouped_mm(torch.device("cuda"))
    assert not should_use_grouped_mm(torch.device("mps"))


# Adapters.


class WithBiases(GroupedExperts):
    """As a family may have them."""

    def __init__(self, **sizes) -> None:
        super().__init__(**sizes)
        self.down_proj_bias = nn.Parameter(torch.randn(sizes["num_experts"], sizes["dim"]))

    def project(self, x: Tensor, stack: str, num_tokens_per_expert: Tensor) -> Tensor:
        y = super().project(x, stack, num_tokens_per_expert)
        if stack != "down_proj":
            return y
        return y + self.down_proj_bias.repeat_interleave(num_tokens_per_expert, dim=0, output_size=len(x))


COUNTS = torch.tensor([2, 0, 4])
SIZES = {"dim": 64, "hidden_dim": 128, "num_experts": 3}


def adapted(kind=GroupedExperts, **settings) -> tuple[GroupedExperts, LoRAGroupedExperts]:
    torch.manual_seed(0)
    experts = kind(**SIZES)
    return experts, LoRAGroupedExperts.from_experts(copy.deepcopy(experts), rank=3, alpha=6, **settings)


@pytest.mark.parametrize("kind", [GroupedExperts, WithBiases])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_adapters_add_a_low_rank_to_every_matrix(kind, use_rslora):
    experts, module = adapted(kind, use_rslora=use_rslora)
    x = torch.randn(6, 64)
    assert torch.equal(module(x, COUNTS), experts(x, COUNTS))
    for stack, (a, b) in module.adapted.items():
        nn.init.normal_(getattr(module, b), std=0.1)
        change = getattr(module, a) @ getattr(module, b) * (6 / (3**0.5 if use_rslora else 3))
        getattr(experts, stack).data += change.detach()
    torch.testing.assert_close(module(x, COUNTS), experts(x, COUNTS), rtol=1e-4, atol=1e-5)
    module.disabled = True
    assert torch.equal(module(x, COUNTS), adapted(kind)[0](x, COUNTS))


def test_what_is_trained_of_adapted_experts():
    _, module = adapted(WithBiases)
    assert [name for name, p in module.named_parameters() if p.requires_grad] == module.adapter_params()
    assert {name: tuple(getattr(module, name).shape) for name in module.adapter_params()} == {
        "lora_gate_a": (3, 64, 3),
        "lora_gate_b": (3, 3, 128),
        "lora_up_a": (3, 64, 3),
        "lora_up_b": (3, 3, 128),
        "lora_down_a": (3, 128, 3),
        "lora_down_b": (3, 3, 64),
    }
    made = LoRAGroupedExperts(**SIZES, rank=3, alpha=6, dropout=0.1)
    assert made.adapter_params() == module.adapter_params() and not made.gate_proj.requires_grad


def test_dropout_is_of_training():
    _, module = adapted(dropout=0.5)
    nn.init.normal_(module.lora_down_b)
    x = torch.randn(6, 64)
    torch.manual_seed(1)
    assert not torch.equal(module(x, COUNTS), module(x, COUNTS))
    assert torch.equal(module.eval()(x, COUNTS), module(x, COUNTS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_in_4_bits_compute_with_the_restored_stacks(dtype):
    experts, module = adapted(quantize_base=True)
    experts, module = experts.to(dtype), module.to(dtype)
    for stack in ("gate_proj", "up_proj", "down_proj"):
        weight = getattr(experts, stack)
        weight.data = dequantize_nf4(quantize_nf4(weight.data.to(dtype)))
        module.load_state_dict({stack: weight}, strict=False)
        assert getattr(module, stack).dtype == torch.uint8
        assert torch.equal(module.state_dict()[stack], dequantize_nf4(quantize_nf4(weight.data)))
        weight.data = module.state_dict()[stack]
    x = torch.randn(6, 64, dtype=dtype)
    found, expected = (gradients(m, x, lambda y, m=m: m(y, COUNTS)) for m in (module, experts.requires_grad_(False)))
    assert torch.equal(found["output"], expected["output"])
    assert all(found[name].any() for name in module.adapter_params() if name.endswith("_b"))
    torch.testing.assert_close(found["x"], expected["x"])


def test_backward_of_quantised_experts_keeps_no_restored_stack():
    _, module = adapted(quantize_base=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        module(torch.randn(6, 64, requires_grad=True), COUNTS).sum().backward()
    assert max(t.numel() for t in kept if t.is_floating_point()) < 64 * 128
