"""The two-way table of names."""

import pytest
import torch

from torchtune.errors import CheckpointError
from torchtune.models._tensor_forms import Columns, PerExpert, Read, ReadColumns, ReadExperts, Write
from torchtune.models._weights import HF_DECODER, WeightMap
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


STACK = "layers.{}.mlp.experts"
SPARSE = WeightMap(
    {
        "model.layers.{}.moe.experts.{}.w1.weight": PerExpert(f"{STACK}.gate_proj"),
        "model.layers.{}.moe.experts.{}.w2.weight": PerExpert(f"{STACK}.down_proj"),
        "model.layers.{}.moe.gate": "layers.{}.mlp.router.gate",
    },
    rotary=(),
)
SPARSE_NATIVE = {
    "layers.3.mlp.router.gate.weight": (12, 4),
    "layers.3.mlp.experts.gate_proj": (12, 4, 6),
    "layers.3.mlp.experts.down_proj": (12, 6, 4),
}


def sparse_foreign(count: int = 12) -> dict[str, tuple[int, int]]:
    """In the order of a file, which is that of letters, so that expert 10 comes before expert 2."""
    shapes = {f"model.layers.3.moe.experts.{i}.w1.weight": (6, 4) for i in range(count)}
    shapes |= {f"model.layers.3.moe.experts.{i}.w2.weight": (4, 6) for i in range(count)}
    return dict(sorted(shapes.items())) | {"model.layers.3.moe.gate.weight": (12, 4)}


def test_a_stack_is_made_of_one_tensor_for_each_expert_and_goes_back():
    plan = SPARSE.plan_read(sparse_foreign(), SPARSE_NATIVE, head_dim=None)
    assert not (plan.missing or plan.unexpected or plan.misshapen)
    assert [r.native for r in plan.reads] == [
        "layers.3.mlp.experts.gate_proj",
        "layers.3.mlp.experts.down_proj",
        "layers.3.mlp.router.gate.weight",
    ]
    experts = {i: f"model.layers.3.moe.experts.{i}.w1.weight" for i in range(12)}
    assert plan.reads[0] == ReadExperts(plan.reads[0].native, experts[0], experts=experts)
    foreign = {name: torch.randn(shape) for name, shape in sparse_foreign().items()}
    for shapes in (None, {name: torch.empty(shape, device="meta") for name, shape in SPARSE_NATIVE.items()}):
        native = SPARSE.to_native(foreign, shapes)
        assert {name: tuple(tensor.shape) for name, tensor in native.items()} == SPARSE_NATIVE
        assert torch.equal(
            native["layers.3.mlp.experts.gate_proj"][10], foreign["model.layers.3.moe.experts.10.w1.weight"].t()
        )
        back = SPARSE.to_foreign(native)
        assert back.keys() == foreign.keys() and all(torch.equal(back[name], foreign[name]) for name in foreign)
        assert all(tensor.is_contiguous() for tensor in back.values())


def test_what_does_not_fit_of_experts_is_told_by_stack():
    foreign = sparse_foreign(13)
    for i in (2, 11):
        del foreign[f"model.layers.3.moe.experts.{i}.w1.weight"]
    plan = SPARSE.plan_read(foreign, SPARSE_NATIVE, head_dim=None)
    assert plan.missing == ["layers.3.mlp.experts.gate_proj (experts 2, 11 of 12)"]
    assert plan.unexpected == [f"model.layers.3.moe.experts.12.{w}.weight" for w in ("w1", "w2")]
    with pytest.raises(CheckpointError, match=r"lacks layers.3.mlp.experts.gate_proj \(experts 2 of 11\)"):
        SPARSE.to_native({name: torch.zeros(s) for name, s in foreign.items() if ".12." not in name})

    foreign = sparse_foreign() | {"model.layers.3.moe.experts.7.w2.weight": (4, 5)}
    plan = SPARSE.plan_read(foreign, SPARSE_NATIVE, head_dim=None)
    assert not plan.missing and [found[1:] for found in plan.misshapen] == [((4, 5), (4, 6))]
    plan = SPARSE.plan_read({}, SPARSE_NATIVE, head_dim=None)
    assert plan.missing == list(SPARSE_NATIVE)
    with pytest.raises(CheckpointError, match="gate_proj holds a matrix for each expert: its shape is needed"):
        SPARSE.plan_write(["layers.3.mlp.experts.gate_proj"], head_dim=None)


@pytest.mark.parametrize("interleaved", [False, True])
def test_columns_of_a_foreign_tensor(interleaved):
    columns = tuple(f"{STACK}.{name}" for name in ("gate_proj", "up_proj"))
    foreign = {"blocks.0.gate_up": torch.randn(3, 4, 10), "blocks.0.down": torch.randn(3, 5, 4)}
    foreign["blocks.0.gate_up_bias"] = torch.randn(3, 10)
    names = WeightMap(
        {
            "blocks.{}.gate_up": Columns(columns, interleaved),
            "blocks.{}.gate_up_bias": Columns(tuple(f"{name}_bias" for name in columns), interleaved),
            "blocks.{}.down": f"{STACK}.down_proj",
        },
        rotary=(),
    )
    shapes = {"gate_proj": (3, 4, 5), "up_proj": (3, 4, 5), "gate_proj_bias": (3, 5), "up_proj_bias": (3, 5)}
    shapes = {f"layers.0.mlp.experts.{name}": shape for name, shape in (shapes | {"down_proj": (3, 5, 4)}).items()}
    for given in (None, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}):
        native = names.to_native(foreign, given)
        assert {name: tuple(tensor.shape) for name, tensor in native.items()} == shapes
        for i, name in enumerate(("gate_proj", "up_proj")):
            part = slice(i, None, 2) if interleaved else slice(5 * i, 5 * (i + 1))
            assert torch.equal(native[f"layers.0.mlp.experts.{name}"], foreign["blocks.0.gate_up"][..., part])
            assert torch.equal(native[f"layers.0.mlp.experts.{name}_bias"], foreign["blocks.0.gate_up_bias"][:, part])
        back = names.to_foreign(native)
        assert back.keys() == foreign.keys() and all(torch.equal(back[name], foreign[name]) for name in foreign)
    plan = names.plan_read({name: tuple(tensor.shape) for name, tensor in foreign.items()}, shapes, head_dim=None)
    assert isinstance(plan.reads[0], ReadColumns)
    assert all(read.shape(tuple(foreign[read.foreign].shape)) == shapes[read.native] for read in plan.reads)
    wrong = names.plan_read({"blocks.0.gate_up": (3, 4, 11)}, shapes, head_dim=None)
    assert {found[1:] for found in wrong.misshapen} == {((3, 4, 11), (3, 4, 10))}


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
