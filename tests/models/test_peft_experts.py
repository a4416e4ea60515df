"""PEFT's adapters of experts as tensors, without files: forms that no model here has yet, and what is refused."""

import pytest
import torch

from torchtune.errors import CheckpointError
from torchtune.models._peft import peft_config, peft_reads, peft_writes, spec_of_peft
from torchtune.models._tensor_forms import Columns, PerExpert
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules.peft import AdapterSpec

EXPERTS, IN, HIDDEN, RANK = 3, 8, 6, 2
STACKS = tuple(f"layers.{{}}.mlp.experts.{name}_proj" for name in ("gate", "up", "down"))
PATH = "model.layers.{}.feed_forward.experts"
FUSED = {
    interleaved: WeightMap(
        HF_DECODER | {f"{PATH}.gate_up_proj": Columns(STACKS[:2], interleaved), f"{PATH}.down_proj": STACKS[2]}
    )
    for interleaved in (False, True)
}
APART = WeightMap(
    HF_DECODER | {f"model.layers.{{}}.moe.{{}}.w{i}.weight": PerExpert(stack) for i, stack in enumerate(STACKS)}
)
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4}
DOUBLED = {"rank_pattern": {r".*\.gate_up_proj": 2 * RANK}, "alpha_pattern": {r".*\.gate_up_proj": 8}}


def ours() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sizes = {"gate": (IN, HIDDEN), "up": (IN, HIDDEN), "down": (HIDDEN, IN)}
    found = {}
    for name, (inputs, outputs) in sizes.items():
        found[f"layers.5.mlp.experts.lora_{name}_a"] = torch.randn(EXPERTS, inputs, RANK)
        found[f"layers.5.mlp.experts.lora_{name}_b"] = torch.randn(EXPERTS, RANK, outputs)
    return found


def fused(interleaved: bool) -> dict[str, torch.Tensor]:
    """As PEFT's documentation of the layout says, by loops."""
    mine, prefix = ours(), "base_model.model.model.layers.5.feed_forward.experts"
    a, b = torch.zeros(EXPERTS * 2 * RANK, IN), torch.zeros(2 * HIDDEN, 2 * RANK * EXPERTS)
    down_a, down_b = torch.zeros(EXPERTS * RANK, HIDDEN), torch.zeros(IN, RANK * EXPERTS)
    for e in range(EXPERTS):
        for r in range(RANK):
            down_a[e * RANK + r] = mine["layers.5.mlp.experts.lora_down_a"][e, :, r]
            down_b[:, r * EXPERTS + e] = mine["layers.5.mlp.experts.lora_down_b"][e, r]
            for half, name in enumerate(("gate", "up")):
                place = half * RANK + r
                rows = slice(half, None, 2) if interleaved else slice(half * HIDDEN, (half + 1) * HIDDEN)
                a[e * 2 * RANK + place] = mine[f"layers.5.mlp.experts.lora_{name}_a"][e, :, r]
                b[rows, place * EXPERTS + e] = mine[f"layers.5.mlp.experts.lora_{name}_b"][e, r]
    inner, outer = f"{prefix}.base_layer.lora", f"{prefix}.lora"
    found = {f"{inner}_A.weight": a, f"{inner}_B.weight": b}
    return found | {f"{outer}_A.weight": down_a, f"{outer}_B.weight": down_b}


@pytest.mark.parametrize("interleaved", [False, True])
def test_stacks_whose_columns_are_halves_or_come_in_turn(interleaved):
    tensors = fused(interleaved)
    shapes, config = {name: tuple(t.shape) for name, t in tensors.items()}, CONFIG | DOUBLED
    reads = peft_reads(FUSED[interleaved], shapes, head_dim=None, config=config)
    found = {read.native: read.make(lambda name, rows: tensors[name]) for read in reads}
    assert found.keys() == ours().keys() and all(torch.equal(found[name], t) for name, t in ours().items())
    of_ours = {read.native: read.shape(shapes[read.foreign]) for read in reads}
    assert of_ours == {name: tuple(tensor.shape) for name, tensor in found.items()}
    spec = spec_of_peft(config, FUSED[interleaved], of_ours)
    assert (spec.ranks, spec.alphas) == ({"layers.5.mlp.experts": RANK}, {"layers.5.mlp.experts": 4})


def test_stacks_whose_columns_come_in_turn_are_written():
    writes = peft_writes(FUSED[True], ours(), head_dim=None)
    found, expected = {w.foreign: w.finish([ours()[n] for n in w.natives]) for w in writes}, fused(True)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], t) for name, t in expected.items())
    config = peft_config(spec(), FUSED[True], "base")
    assert config["target_modules"] == ["q_proj"]
    assert config["target_parameters"] == ["feed_forward.experts.down_proj", "feed_forward.experts.gate_up_proj"]
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({"gate_up_proj": 4}, {"gate_up_proj": 8})


def test_one_adapter_for_each_expert():
    writes = peft_writes(APART, ours(), head_dim=None)
    assert len(writes) == 6 * EXPERTS
    tensors = {w.foreign: w.finish([ours()[n] for n in w.natives]) for w in writes}
    assert torch.equal(
        tensors["base_model.model.model.layers.5.moe.1.w2.lora_B.weight"],
        ours()["layers.5.mlp.experts.lora_down_b"][1].t(),
    )
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    reads = peft_reads(APART, shapes, head_dim=None, config=CONFIG)
    found = {read.native: read.make(lambda name, rows: tensors[name]) for read in reads}
    assert all(torch.equal(found[name], tensor) for name, tensor in ours().items())
    for name in list(shapes):
        if ".moe.1.w0.lora_A" in name:
            del shapes[name]
    with pytest.raises(CheckpointError, match=r"lora_gate_a \(experts 1 of 3\)"):
        peft_reads(APART, shapes, head_dim=None, config=CONFIG)


def spec(**changes) -> AdapterSpec:
    ranks = {"layers.5.attn.q_proj": 2, "layers.5.mlp.experts": 2}
    return AdapterSpec(**{"ranks": ranks, "alphas": dict.fromkeys(ranks, 4), "dropout": 0.1} | changes)


def test_what_a_config_says_of_experts():
    config = peft_config(spec(), APART, "base")
    assert config["target_modules"] == ["q_proj", "w0", "w1", "w2"]
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 4, 0.0)  # PEFT has no dropout for them
    other = spec(ranks={"layers.5.attn.q_proj": 8, "layers.5.mlp.experts": 2})
    assert peft_config(other, APART, "base")["rank_pattern"] == {"q_proj": 8}


@pytest.mark.parametrize(
    ("names", "changes", "told"),
    [
        (APART, {"use_rslora": True}, "another scale"),
        (
            APART,
            {"ranks": {f"layers.{i}.attn.{n}_proj": 8 for i in range(5) for n in "qv"} | {"layers.5.mlp.experts": 2}},
            "gate_proj has rank 2 and alpha 4; PEFT gives experts those that most layers have, 8 and 4",
        ),
        (FUSED[False], {}, "PEFT's form of adapters of such experts is not known here"),
    ],
)
def test_what_peft_cannot_be_told_is_refused(names, changes, told):
    given = spec(**changes)
    with pytest.raises(CheckpointError, match=told):
        peft_config(spec(**changes | {"alphas": dict.fromkeys(given.ranks, 4)}), names, "base")


def test_a_feed_forward_without_experts_beside_them():
    names = WeightMap(HF_DECODER | {f"{PATH}.{{}}.up_proj.weight": PerExpert(STACKS[1])})
    names = WeightMap(names.rules | {f"{PATH}.{{}}.{n}_proj.weight": PerExpert(s) for n, s in zip("gd", STACKS[::2])})
    ranks = {"layers.4.mlp.w3": 2, "layers.5.mlp.experts": 2}
    with pytest.raises(CheckpointError, match="layers.4.mlp.w3 has an adapter, which PEFT takes for one of"):
        peft_config(spec(ranks=ranks, alphas=dict.fromkeys(ranks, 4)), names, "base")


def test_stacks_that_cannot_be_taken_apart():
    tensors = fused(False)
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    for change, told in (
        ({"rank_pattern": {"gate_up_proj": 3}}, "rank 3 and scale"),
        ({"rank_pattern": DOUBLED["rank_pattern"]}, "the scales must be the same"),
    ):
        with pytest.raises(CheckpointError, match=told):
            peft_reads(FUSED[False], shapes, head_dim=None, config=CONFIG | change)
