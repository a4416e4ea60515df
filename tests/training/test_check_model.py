"""The model of a builder beside the one of ``config.json``: what is said of each difference, and of what is none."""

import json
import logging

import pytest
import torch
from family_cases import all_cases

from torchtune.models import auto, family_of, llama2, llama3, llama3_1, llama3_2, mistral, qwen2
from torchtune.models._adapters import lora
from torchtune.modules import TransformerDecoder
from torchtune.training import FullModelHFCheckpointer, FullModelMetaCheckpointer
from torchtune.training.check_model import check_model, differences

BUILT = {name: case for name, case in all_cases().items() if case.builder}
SIZES = {"vocab_size": 97, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "max_seq_len": 64,
         "intermediate_dim": 192}  # fmt: skip
LLAMA = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
SCALED = {
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
}
MISTRAL = LLAMA | {"model_type": "mistral", "rope_theta": 10000.0, "sliding_window": None}


def found(config, build):
    with torch.device("meta"):
        return differences(family_of(config).build(config), build())


@pytest.mark.parametrize("name", BUILT)
def test_builders_make_the_models_of_their_configs(name):
    config = BUILT[name].hf_config().to_dict()
    assert found(config, BUILT[name].builder) == []


@pytest.mark.parametrize("options", [{}, {"use_dora": True, "lora_dropout": 0.1}, {"quantize_base": True}])
def test_adapters_and_4_bits_are_no_difference(options):
    targets = ["q_proj", "output_proj"]
    config = LLAMA | SCALED

    def build():
        return llama3_1.lora_llama3_1(targets, True, **options, **SIZES)

    assert found(config, build) == []
    assert found(config | {"rope_theta": 7}, build) == [
        "config.json says rope base 7; the model has 500,000 (layers 0 to 2)"
    ]


@pytest.mark.parametrize("name", ["mixtral/8x7b", "gemma2/27b"])
def test_adapters_on_other_families(name):
    case = BUILT[name]
    assert found(case.hf_config().to_dict(), lambda: lora(case.builder, ["q_proj"], True, lora_rank=2)) == []


@pytest.mark.parametrize("changes", [{"max_seq_len": 9}, {"attn_dropout": 0.1}, {"rope_base": 500_000.0}])
def test_what_is_no_difference(changes):
    assert found(LLAMA, lambda: llama3.llama3(**SIZES | changes)) == []


def test_a_window_longer_than_any_sequence_is_none():
    sizes = SIZES | {"max_seq_len": 32}
    for window in (32, 33):
        assert found(MISTRAL | {"sliding_window": window}, lambda: mistral.mistral(**sizes)) == []
    assert found(MISTRAL | {"sliding_window": 31}, lambda: mistral.mistral(**sizes)) == [
        "config.json says window 31; the model has none (layers 0 to 2)"
    ]


def test_mistral_7b_leaves_out_a_window_as_torchtune_does():
    """Configs that ship and torchtune's have this model for these files, which is why a difference is no error."""
    sizes = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768}
    config = MISTRAL | sizes | heads | {"sliding_window": 4096}
    assert found(config, mistral.mistral_7b) == ["config.json says window 4,096; the model has none (layers 0 to 31)"]
    assert found(config, mistral.mistral_7b_v0_1) == []


def test_a_classifier_and_an_untied_output_projection_are_meant():
    assert found(MISTRAL, lambda: mistral.mistral_classifier(3, **SIZES)) == []
    scaling = {"rope_scaling": SCALED["rope_scaling"] | {"factor": 32}}
    tied = LLAMA | scaling | {"tie_word_embeddings": True}
    assert found(tied, lambda: llama3_2.llama3_2(**SIZES, tie_word_embeddings=False)) == []


PLAIN = "RotaryPositionalEmbeddings"
HALVES = {name: False for name in ("q_proj_bias", "k_proj_bias", "v_proj_bias")}
LLAMAS = {
    "norm eps 1e-06; the model has 1e-05 (layers 0 to 2)": ({"rms_norm_eps": 1e-6}, llama3.llama3, {}),
    "heads 8; the model has 4 (layers 0 to 2)": ({"num_attention_heads": 8, "head_dim": 8}, llama3.llama3, {}),
    "rope base 500,000; the model has 10,000 (layers 0 to 2)": ({}, llama2.llama2, {}),
    "activation GELU (approximate none); the model has SiLU (layers 0 to 2)": (
        {"hidden_act": "gelu"},
        llama3.llama3,
        {},
    ),
    "interleaved rope True; the model has False (layers 0 to 2)": (
        {},
        qwen2.qwen2,
        HALVES | {"rope_base": 500_000, "norm_eps": 1e-5},
    ),
    "positions Llama3ScaledRoPE (scale_factor 8, low_freq_factor 1, high_freq_factor 4, old_context_len 8,192); "
    f"the model has {PLAIN} (layers 0 to 2)": (SCALED, llama3.llama3, {}),
    "pos_embeddings scale_factor 8; the model has 32 (layers 0 to 2)": (
        SCALED,
        llama3_2.llama3_2,
        {"tie_word_embeddings": False},
    ),
}


@pytest.mark.parametrize("sentence", LLAMAS)
def test_what_is_said_of_llamas(sentence):
    changes, build, numbers = LLAMAS[sentence]
    assert f"config.json says {sentence}" in found(LLAMA | changes, lambda: build(**SIZES | numbers))


OTHERS = [
    ("gemma/2b", {"hidden_act": "silu"}, "activation SiLU; the model has GELU (approximate tanh) (layers 0 to 2)"),
    ("gemma2/27b", {"final_logit_softcapping": None}, "cap of the logits none; the model has SoftCap (cap 30)"),
    ("gemma2/27b", {"attn_logit_softcapping": 7}, "cap of the attention scores 7; the model has 50 (layers 0 to 2)"),
    ("gemma2/27b", {"query_pre_attn_scalar": 16}, "attention scale 0.25; the model has 0.2236067977 (layers 0 to 2)"),
    ("gemma2/27b", {"sliding_window": 5}, "window 5; the model has 11 (layers 0, 2)"),
    ("granite/2b", {"embedding_multiplier": 3}, "tok_embeddings multiplier 3; the model has 12"),
    ("granite/2b", {"residual_multiplier": 1}, "sa_scale multiplier 1; the model has 0.22 (layers 0 to 2)"),
    ("granite/2b", {"logits_scaling": 1.5}, "norm divisor 1.5; the model has 8"),
    ("mixtral/8x7b", {"num_experts_per_tok": 1}, "router experts_per_token 1; the model has 2 (layers 0 to 2)"),
    (
        "smollm3/3b",
        {"no_rope_layers": [1, 0, 1, 0]},
        f"positions none; the model has {PLAIN} (dim 16, base 2,000,000, interleaved False) (layer 1)",
    ),
]


@pytest.mark.parametrize(
    "name, changes, sentence", OTHERS, ids=[f"{name} {min(changes)}" for name, changes, _ in OTHERS]
)
def test_what_is_said_of_other_families(name, changes, sentence):
    config = BUILT[name].hf_config().to_dict()
    assert f"config.json says {sentence}" in found(config | changes, BUILT[name].builder)


def test_a_norm_of_another_kind_is_said():
    config = BUILT["gemma/2b"].hf_config().to_dict()
    told = found(config, lambda: llama2.llama2(**SIZES))
    assert "config.json says sa_norm GemmaRMSNorm; the model has RMSNorm (layers 0 to 2)" in told
    assert "config.json says tok_embeddings GemmaNormEmbeddings; the model has Embedding" in told


def test_many_layers_are_counted():
    numbers = {"num_hidden_layers": 40, "no_rope_layers": [1, 0] * 20}
    config = BUILT["smollm3/3b"].hf_config().to_dict() | numbers | {"layer_types": None}
    model = family_of(config).build(config)
    for layer in model.layers[1::2]:
        layer.attn.window = 3
    config["sliding_window"] = 4
    (told,) = differences(family_of(config).build(config), model)
    assert told.endswith("the model has 3 (layers 1, 3, 5, 7, 9, 11, ... 20 in all)")


@pytest.fixture
def checked(tmp_path, caplog):
    """What is said of a model, given a config and a builder."""

    def run(config, build) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config))
        caplog.clear()
        with caplog.at_level(logging.WARNING), torch.device("meta"):
            check_model(build(), FullModelHFCheckpointer(str(tmp_path)))
        return caplog.text

    return run


def test_a_difference_is_a_warning_that_says_what_can_be_done(checked, tmp_path):
    said = checked(MISTRAL, lambda: mistral.mistral(**SIZES, rope_base=1e6))
    assert said.startswith("WARNING") and str(tmp_path / "config.json") in said
    assert "rope base 10,000; the model has 1,000,000" in said
    assert "torchtune.models.auto" in said and "Other programs go by config.json" in said


def test_no_difference_is_not_worth_a_word(checked, tmp_path):
    assert checked(LLAMA, lambda: llama3.llama3(**SIZES)) == ""
    assert checked(MISTRAL, lambda: auto(str(tmp_path))) == ""


def test_a_config_that_is_not_understood_cannot_be_compared(checked):
    said = checked(LLAMA | {"a_new_feature": 3}, lambda: llama3.llama3(**SIZES, rope_base=1))
    assert "cannot be compared" in said and "a_new_feature" in said and "rope base" not in said


def test_a_config_that_makes_no_model_cannot_be_compared(checked):
    said = checked(LLAMA | {"num_key_value_heads": 3}, lambda: llama3.llama3(**SIZES))
    assert "cannot be compared" in said and "num_kv_heads (3)" in said


def test_whatever_a_model_holds(checked):
    class Loop:
        def __init__(self) -> None:
            self.me, self.size = self, 3

    def build():
        model = llama3.llama3(**SIZES)
        model.note = model.layers[0].attn.note = Loop()
        model.finish_logits, model.kept = Loop(), torch.float32
        return model

    assert "cap of the logits none; the model has Loop (size 3)" in checked(LLAMA, build)


def test_a_model_of_another_make_is_compared_in_what_is_called_the_same(checked):
    class Mine(TransformerDecoder):
        pass

    def build():
        model = llama3.llama3(**SIZES | {"num_layers": 2}, rope_base=3)
        model.__class__ = Mine
        del model.layers[1].mlp
        return model

    said = checked(LLAMA, build)
    assert "TransformerDecoder; the model has Mine" in said
    assert "rope base 500,000; the model has 3 (layers 0 to 1)" in said


def test_other_formats_have_nothing_to_compare_with(tmp_path, caplog):
    torch.save({}, tmp_path / "consolidated.00.pth")
    check_model(torch.nn.Linear(1, 1), FullModelMetaCheckpointer(str(tmp_path), model_type="LLAMA3"))
    assert caplog.text == ""
