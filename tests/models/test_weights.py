"""The two-way table of names."""

import pytest
import torch

from torchtune.errors import CheckpointError
from torchtune.models._weights import HF_DECODER, Read, WeightMap, Write
from torchtune.models.convert_weights import get_mapped_key, hf_to_tune, meta_to_tune, tune_to_hf, tune_to_meta

STACKED = WeightMap(
    {
        "embed": "tok_embeddings",
        "blocks.{}.qkv": tuple(f"layers.{{}}.attn.{n}_proj" for n in "qkv"),
        "blocks.{}.experts.{}.up": "layers.{}.moe.{}.w3",
        "blocks.{}.mlp.0": "layers.{}.mlp.w1",
        "blocks.{}.mlp.2": "layers.{}.mlp.w2",
        "head": "output",
        "freqs": None,
    },
    rotary=(),
)
NATIVE = {
    "tok_embeddings.weight": (5, 4),
    "layers.0.attn.q_proj.weight": (4, 4),
    "layers.0.attn.k_proj.weight": (2, 4),
    "layers.0.attn.v_proj.weight": (2, 4),
    "layers.0.moe.11.w3.weight": (3, 4),
    "layers.0.mlp.w1.weight": (6, 4),
    "layers.0.mlp.w2.weight": (4, 6),
}
FOREIGN = {
    "blocks.0.qkv.weight": (8, 4),
    "embed.weight": (5, 4),
    "blocks.0.mlp.2.weight": (4, 6),
    "blocks.0.mlp.0.weight": (6, 4),
    "blocks.0.experts.11.up.weight": (3, 4),
    "freqs": (2,),
}


def test_reads_follow_the_files_and_cut_stacks():
    plan = STACKED.plan_read(FOREIGN, NATIVE, head_dim=None)
    assert not (plan.missing or plan.unexpected or plan.misshapen)
    assert plan.reads == [
        Read("layers.0.attn.q_proj.weight", "blocks.0.qkv.weight", (0, 4)),
        Read("layers.0.attn.k_proj.weight", "blocks.0.qkv.weight", (4, 6)),
        Read("layers.0.attn.v_proj.weight", "blocks.0.qkv.weight", (6, 8)),
        Read("tok_embeddings.weight", "embed.weight"),
        Read("layers.0.mlp.w2.weight", "blocks.0.mlp.2.weight"),
        Read("layers.0.mlp.w1.weight", "blocks.0.mlp.0.weight"),
        Read("layers.0.moe.11.w3.weight", "blocks.0.experts.11.up.weight"),
    ]


def test_writes_come_when_their_parts_are_there():
    writes = STACKED.plan_write(NATIVE, head_dim=None)
    assert [w.foreign for w in writes][:2] == ["embed.weight", "blocks.0.qkv.weight"]
    assert writes[1] == Write("blocks.0.qkv.weight", tuple(f"layers.0.attn.{n}_proj.weight" for n in "qkv"))
    assert {w.foreign for w in writes} == set(FOREIGN) - {"freqs"}
    with pytest.raises(CheckpointError, match="v_proj"):
        STACKED.plan_write(["layers.0.attn.v_proj.weight"], head_dim=None)
    with pytest.raises(CheckpointError, match="layers.0.strange has no name"):
        STACKED.plan_write(["layers.0.strange"], head_dim=None)


def test_whole_state_dicts_round_trip():
    native = {k: torch.randn(s) for k, s in NATIVE.items()}
    foreign = STACKED.to_foreign(native)
    assert {k: tuple(v.shape) for k, v in foreign.items()} == {k: s for k, s in FOREIGN.items() if k != "freqs"}
    back = STACKED.to_native(foreign, native)
    assert back.keys() == native.keys() and all(torch.equal(back[k], native[k]) for k in native)
    with pytest.raises(CheckpointError, match="shapes are needed"):
        STACKED.to_native(foreign)


def test_what_does_not_fit_is_told():
    foreign = FOREIGN | {"blocks.0.qkv.weight": (9, 4), "blocks.0.mpl.0.weight": (1,)}
    del foreign["embed.weight"]
    plan = STACKED.plan_read(foreign, NATIVE, head_dim=None)
    assert plan.missing == ["tok_embeddings.weight"] and plan.unexpected == ["blocks.0.mpl.0.weight"]
    assert {found[1:] for found in plan.misshapen} == {((9, 4), (8, 4))}
    assert STACKED.nearest("blocks.7.qvk.weight") == "blocks.{}.qkv"


@pytest.mark.parametrize(
    ("in_file", "in_model", "tied", "outcome"),
    [
        (True, False, True, "skipped"),
        (True, False, None, "skipped"),
        (True, False, False, "unexpected"),
        (False, True, True, "embedding"),
        (False, True, None, "missing"),
        (False, True, False, "missing"),
        (True, True, True, "read"),
    ],
)
def test_output_projection(in_file, in_model, tied, outcome):
    foreign = FOREIGN | ({"head.weight": (5, 4)} if in_file else {})
    native = NATIVE | ({"output.weight": (5, 4)} if in_model else {})
    plan = STACKED.plan_read(foreign, native, head_dim=None, tied=tied)
    sources = [r.foreign for r in plan.reads if r.native == "output.weight"]
    assert sources == {"embedding": ["embed.weight"], "read": ["head.weight"]}.get(outcome, [])
    assert plan.missing == (["output.weight"] if outcome == "missing" else [])
    assert plan.unexpected == (["head.weight"] if outcome == "unexpected" else [])


def test_channel_order_of_weights_biases_and_adapters():
    weights = WeightMap(HF_DECODER)
    prefix = "model.layers.3.self_attn.q_proj"
    rows = torch.arange(16.0)
    foreign = {f"{prefix}.weight": rows[:, None], f"{prefix}.bias": rows, f"{prefix}.lora_a.weight": rows[:, None]}
    native = weights.to_native(foreign, head_dim=8)
    assert native["layers.3.attn.q_proj.bias"].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert torch.equal(native["layers.3.attn.q_proj.weight"][:, 0], native["layers.3.attn.q_proj.bias"])
    assert torch.equal(native["layers.3.attn.q_proj.lora_a.weight"][:, 0], rows)
    back = weights.to_foreign(native, head_dim=8)
    assert all(torch.equal(back[k], v) for k, v in foreign.items()) and back.keys() == foreign.keys()


def test_documented_functions():
    state = {
        "lm_head.weight": torch.randn(4, 8),
        "model.layers.0.self_attn.q_proj.weight": torch.randn(8, 8),
        "model.layers.0.self_attn.k_proj.weight": torch.randn(4, 8),
    }
    ours = hf_to_tune(
        state | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)}, num_heads=2, num_kv_heads=1, dim=8
    )
    assert list(ours) == ["output.weight", "layers.0.attn.q_proj.weight", "layers.0.attn.k_proj.weight"]
    assert torch.equal(
        ours["layers.0.attn.k_proj.weight"], state["model.layers.0.self_attn.k_proj.weight"][[0, 2, 1, 3]]
    )
    back = tune_to_hf(ours, num_heads=2, num_kv_heads=1, dim=8)
    assert all(torch.equal(back[k], v) for k, v in state.items())
    assert tune_to_hf(ours, head_dim=4).keys() == state.keys()
    meta = tune_to_meta(ours)
    assert list(meta) == ["output.weight", "layers.0.attention.wq.weight", "layers.0.attention.wk.weight"]
    assert all(torch.equal(meta_to_tune(meta)[k], v) for k, v in ours.items())
    with pytest.raises(CheckpointError, match="foo"):
        hf_to_tune({"foo": torch.zeros(1)})


def test_get_mapped_key():
    table = {"model.layers.{}.mlp.w.weight": "layers.{}.w.weight", "norm": "n"}
    assert get_mapped_key("model.layers.3.mlp.w.weight", table) == "layers.3.w.weight"
    assert get_mapped_key("norm", table) == "n"
    with pytest.raises(CheckpointError, match="layers.0.w"):
        get_mapped_key("layers.0.w", table)
