"""Adapters as a change to a finished model: what gets one, what is trained, and how mistakes are answered."""

import pytest
import torch
from torch import nn

from torchtune.errors import ConfigError
from torchtune.models.llama3_2 import llama3_2, lora_llama3_2
from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.modules.peft import (
    DoRALinear,
    LoRALinear,
    adapted_layers,
    adapter_names,
    adapter_spec,
    apply_lora,
    get_adapter_params,
    get_adapter_state_dict,
    get_lora_module_names,
    initial_adapters,
    set_trainable_params,
    whole_trained_names,
)

SIZES = {"vocab_size": 40, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 64, "max_seq_len": 16}


def plain(tied=False, width=128, embed_dim=64):
    torch.manual_seed(0)
    sizes = SIZES | {"embed_dim": embed_dim, "intermediate_dim": width}
    return llama3_2(**sizes, tie_word_embeddings=tied)


def adapted(targets=("q_proj", "v_proj"), model=None, **settings):
    settings = {"rank": 4, "alpha": 8} | settings
    return apply_lora(plain() if model is None else model, targets, **settings)


def trained(model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_named_projections_of_every_layer_get_one():
    model = plain()
    weights = {name: p for name, p in model.named_parameters()}
    assert adapted(model=model) is model
    layers = [f"layers.{i}.attn.{kind}" for i in (0, 1) for kind in ("q_proj", "v_proj")]
    assert list(adapted_layers(model)) == layers
    assert all(type(m) is LoRALinear for m in adapted_layers(model).values())
    assert trained(model) == {f"{layer}.lora_{x}.weight" for layer in layers for x in "ab"}
    assert all(model.get_parameter(name) is p for name, p in weights.items())  # no weight is copied


def test_a_whole_name_means_one_layer():
    model = adapted(["layers.1.attn.q_proj", "layers.0.mlp.w2"], use_dora=True)
    assert list(adapted_layers(model)) == ["layers.0.mlp.w2", "layers.1.attn.q_proj"]
    assert all(type(m) is DoRALinear for m in adapted_layers(model).values())


def test_settings_reach_the_layers():
    layer = adapted(["w1"], dropout=0.25, use_rslora=True).layers[0].mlp.w1
    assert (layer.rank, layer.alpha, layer.dropout.p, layer.use_rslora, layer.scaling) == (4, 8, 0.25, True, 4)


def test_the_longest_pattern_counts():
    patterns = {"q_proj": 2, "layers.1.attn.q_proj": 6, "attn.q_proj": 3}
    model = adapted(rank_pattern=patterns, alpha_pattern={"v_proj": 1.5})
    ranks = {name: layer.rank for name, layer in adapted_layers(model).items()}
    assert list(ranks.values()) == [3, 4, 6, 4]
    assert [layer.scaling for layer in adapted_layers(model).values()] == [8 / 3, 1.5 / 4, 8 / 6, 1.5 / 4]


def test_other_modules_are_trained_in_full():
    model = adapted(trainable=["tok_embeddings", "sa_norm", "norm", "output", "layers.1.mlp.w1"])
    whole = {"tok_embeddings.weight", "layers.0.sa_norm.scale", "layers.1.sa_norm.scale", "norm.scale"}
    whole |= {"output.weight", "layers.1.mlp.w1.weight"}
    assert set(whole_trained_names(model)) == whole
    assert set(adapter_names(model)) == trained(model) == whole | set(get_adapter_params(model))


def test_the_quantised_are_all_linear_layers_but_output_and_what_is_trained():
    model = adapted(["q_proj", "output"], quantize_base=True, trainable=["w2"])
    kinds = {name: type(m) for name, m in model.named_modules() if hasattr(m, "weight")}
    assert kinds["layers.0.attn.k_proj"] is kinds["layers.1.mlp.w1"] is FrozenNF4Linear
    assert model.layers[0].attn.q_proj.weight.dtype == torch.uint8
    assert kinds["layers.0.mlp.w2"] is nn.Linear and model.layers[0].mlp.w2.weight.requires_grad
    assert model.output.weight.dtype == torch.float32 and kinds["output"] is LoRALinear
    assert set(model.state_dict()) == set(adapted(["q_proj", "output"]).state_dict())


def test_the_spec_says_what_the_layers_are():
    assert adapter_spec(plain()) is None
    settings = {"dropout": 0.1, "use_rslora": True, "use_dora": True, "rank_pattern": {"v_proj": 2}}
    spec = adapter_spec(adapted(**settings, alpha_pattern={"layers.0.attn.q_proj": 3}, trainable=["norm"]))
    assert spec.ranks == {
        f"layers.{i}.attn.{kind}": rank for i in (0, 1) for kind, rank in (("q_proj", 4), ("v_proj", 2))
    }
    assert spec.alphas == {name: 3 if name == "layers.0.attn.q_proj" else 8 for name in spec.ranks}
    assert (spec.dropout, spec.use_rslora, spec.use_dora, spec.trained) == (0.1, True, True, ("norm.scale",))
    own = {f"layers.{i}.{leaf}" for i in (0, 1) for leaf in ("attn.k_proj", "attn.output_proj")}
    assert set(spec.others) == own | {f"layers.{i}.mlp.w{n}" for i in (0, 1) for n in (1, 2, 3)} | {"output"}
    assert adapter_spec(adapted(quantize_base=True)).others == adapter_spec(adapted()).others


def test_drawn_adapters_depend_on_the_seed_alone():
    with torch.device("meta"):
        on_meta = adapted(model=plain(), rank_pattern={"v_proj": 2})
    draw = lambda seed: dict(initial_adapters(on_meta, torch.Generator().manual_seed(seed)))  # noqa: E731
    first, again, other = draw(1), draw(1), draw(2)
    shapes = {name: p.shape for name, p in get_adapter_params(on_meta).items()}
    assert {name: t.shape for name, t in first.items()} == shapes
    assert all(torch.equal(first[name], again[name]) for name in shapes)
    assert not torch.equal(first["layers.0.attn.q_proj.lora_a.weight"], other["layers.0.attn.q_proj.lora_a.weight"])
    for name, tensor in first.items():
        assert tensor.any() == ("lora_a" in name) and tensor.abs().max() <= 1 / 8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 32}, None),
        ({"rank": 33}, "lora_rank 33 is above the width of layers.0.attn.v_proj, 32, and so in 2 layer(s)"),
        ({"rank_pattern": {"q_proj": 99}}, "lora_rank 99 is above the width of layers.0.attn.q_proj, 64"),
    ],
    ids=str,
)
def test_a_rank_above_the_width_is_taken_with_a_warning(settings, said, caplog):
    adapted(**{"targets": ["q_proj", "v_proj"]} | settings)
    assert (said in caplog.text) if said else not caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ["q_poj"]}, r"no linear layer called 'q_poj'. Did you mean 'q_proj'\? It has k_proj, output, "),
        ({"targets": ["proj"]}, "no linear layer called 'proj'"),
        ({"targets": ["layers.7.attn.q_proj"]}, "'layers.7.attn.q_proj'"),
        ({"rank": 0}, "lora_rank 0 of layers.0.attn.q_proj is below 1"),
        ({"rank_pattern": {"w2": 3}}, "no adapted layer called 'w2'. .*It has q_proj, v_proj"),
        ({"alpha_pattern": {"q_prj": 3}}, "no adapted layer called 'q_prj'. Did you mean 'q_proj'"),
        ({"trainable": ["norms"]}, "no module with parameters called 'norms'. Did you mean '.*norm'"),
        ({"trainable": ["v_proj"]}, "layers.0.attn.v_proj cannot have an adapter and be trained in full as well"),
        ({"targets": []}, "nothing would be trained"),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_are_named(settings, message):
    settings = {"targets": ["q_proj", "v_proj"]} | settings
    with pytest.raises(ConfigError, match=message):
        adapted(**settings)


def test_a_width_that_cannot_be_quantised():
    with pytest.raises(ConfigError, match="layers.0.mlp.w2 has 96 inputs, .* multiple of the 64"):
        adapted(model=plain(width=96), quantize_base=True)


def test_adapters_are_given_once():
    with pytest.raises(ConfigError, match="has adapters already"):
        adapted(["w1"], model=adapted())


@pytest.mark.parametrize("settings", [{"targets": ["output"]}, {"trainable": ["output"]}], ids=str)
def test_a_tied_output_has_nothing_to_adapt(settings):
    with pytest.raises(ConfigError, match=r"shares the token embedding's weight.*\[tok_embeddings\].*tie_word"):
        adapted(model=plain(tied=True), **settings)
    model = adapted(model=plain(tied=True), trainable=["tok_embeddings"])
    assert whole_trained_names(model) == ["tok_embeddings.weight"]


def test_a_builder_of_any_size():
    settings = {"lora_rank": 2, "lora_alpha": 6, "use_rslora": True, "trainable_modules": ["norm"]}
    model = lora_llama3_2(["k_proj"], True, True, **SIZES, tie_word_embeddings=False, **settings)
    kinds = {name.rpartition(".")[2] for name in adapted_layers(model)}
    assert kinds == {"k_proj", "w1", "w2", "w3", "output"} and whole_trained_names(model) == ["norm.scale"]
    assert model.output.scaling == 6 / 2**0.5 and model.tok_embeddings.num_embeddings == 40


def test_names_from_a_config():
    assert get_lora_module_names(["v_proj", "q_proj"], True, True) == ["v_proj", "q_proj", "w1", "w2", "w3", "output"]
    assert get_lora_module_names(["q_proj"], False, False) == ["q_proj"]


def test_old_recipes_choose_what_is_trained():
    model = adapted(use_dora=True)
    adapters = get_adapter_params(model)
    assert set(adapters) == trained(model)
    assert get_adapter_state_dict(model.state_dict()).keys() == adapters.keys()
    model.requires_grad_(True)
    set_trainable_params(model, adapters)
    assert trained(model) == set(adapters)
    assert set(get_adapter_params(model.layers[0].attn.q_proj)) == {"lora_a.weight", "lora_b.weight", "magnitude"}
