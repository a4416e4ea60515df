"""Adapters in PEFT's format, with PEFT and transformers as the judges."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from torchtune.modules.peft import adapter_spec

UNTIED, TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}
QUERY = {"attention": ["q_proj"]}
MIXED = {"rank_pattern": {"w2": 4, "layers.0.attn.q_proj": 2}, "alpha_pattern": {"k_proj": 3, "layers.1.mlp.w1": 2.5}}
# The base's config, settings of our adapters, and the same settings for PEFT.
ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
CASES = {
    "attention": ({}, {}, {"target_modules": ATTENTION}),
    "all heads": ({"num_key_value_heads": 4}, {}, {"target_modules": ATTENTION}),
    "wide heads": ({"head_dim": 16}, {}, {"target_modules": ATTENTION}),
    "mlp": ({}, {"apply_lora_to_mlp": True}, {"target_modules": "all-linear"}),
    "rslora": ({}, {"use_rslora": True}, {"target_modules": ATTENTION, "use_rslora": True}),
    "dora": ({}, {"use_dora": True, "apply_lora_to_mlp": True}, {"target_modules": "all-linear", "use_dora": True}),
    "patterns": (
        {},
        {"apply_lora_to_mlp": True} | MIXED,
        {
            "target_modules": r".*\.(self_attn|mlp)\.\w+_proj",
            "rank_pattern": {"down_proj": 4, "^model.layers.0.self_attn.q_proj": 2},
            "alpha_pattern": {"proj": 99, r"self_attn\.k_proj": 3, "model.layers.1.mlp.gate_proj": 2.5},
        },
    ),
    "output": (UNTIED, {"apply_lora_to_output": True}, {"target_modules": [*ATTENTION, "lm_head"]}),
    "last norm": (
        UNTIED,
        {"trainable_modules": ["norm"]},
        {"target_modules": ATTENTION, "modules_to_save": ["model.norm"]},
    ),
    "norms and head": (
        UNTIED,
        QUERY | {"trainable_modules": ["sa_norm", "layers.1.mlp_norm", "tok_embeddings", "output"]},
        {
            "target_modules": ["q_proj"],
            "modules_to_save": ["input_layernorm", "layers.1.post_attention_layernorm", "embed_tokens", "lm_head"],
        },
    ),
    "tied embedding": (
        TIED,
        {"trainable_modules": ["tok_embeddings"]},
        {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
}
cases = pytest.mark.parametrize(("config", "settings", "theirs"), CASES.values(), ids=CASES)


def in_peft(adapted, folder):
    """The base with a folder's adapter, which PEFT finds complete and without anything that it does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = PeftModel.from_pretrained(adapted.theirs(), folder)
    result = model.load_adapter(folder, "again")
    assert not result.missing_keys and not result.unexpected_keys
    return model.eval()


@cases
def test_peft_loads_what_is_written(adapted, tmp_path, config, settings, theirs):
    adapted = adapted(**config)
    ours = adapted.ours(**settings)
    adapted.write(ours, tmp_path / "adapter")
    model = in_peft(adapted, tmp_path / "adapter")
    adapted.assert_same(ours, model)
    assert (adapted.logits(ours) - adapted.logits(adapted.theirs())).abs().max() > 0.1
    model.save_pretrained(tmp_path / "again", selected_adapters=["default"])
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "again"))
    before = {k.replace("magnitude_vector.weight", "magnitude_vector"): v for k, v in before.items()}
    assert {k for k in after if ".base_layer." not in k} == before.keys()  # PEFT adds the weight below a LoRA lm_head
    assert all(torch.equal(before[k], after[k]) for k in before)


@cases
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_what_peft_writes_is_loaded(adapted, tmp_path, config, settings, theirs, safe):
    adapted = adapted(**config)
    model = get_peft_model(adapted.theirs(), LoraConfig(r=8, lora_alpha=16, **theirs)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(float(parameter.ndim == 1) + 0.3 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "theirs", safe_serialization=safe)
    assert (tmp_path / "theirs/adapter_model.bin").exists() is not safe
    adapted.assert_same(adapted.fill(adapted.ours(**settings), tmp_path / "theirs"), model)


@cases
def test_round_trip_keeps_every_bit(adapted, tmp_path, config, settings, theirs):
    adapted = adapted(**config)
    ours = adapted.ours(**settings).bfloat16()
    adapted.write(ours, tmp_path / "adapter")
    for source in (tmp_path / "adapter", "../adapter/adapter_model.pt"):  # relative to checkpoint_dir
        loaded = adapted.checkpointer.adapter(source, head_dim=ours.head_dim)
        expected = adapted.tensors(ours)
        assert loaded.tensors.keys() == expected.keys() == loaded.infos.keys() and loaded.base == "a base"
        assert all(
            torch.equal(loaded.tensors[k], expected[k]) and loaded.infos[k] == expected[k].shape for k in expected
        )
        spec = adapter_spec(ours)
        assert (loaded.spec.ranks, loaded.spec.alphas) == (spec.ranks, spec.alphas)
        assert set(loaded.spec.trained) == set(spec.trained)


def config_of(adapted, tmp_path, model):
    adapted.write(model, tmp_path / "adapter")
    return json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())


def test_the_config_says_things_shortly(adapted, tmp_path):
    adapted = adapted(**UNTIED)
    found = config_of(adapted, tmp_path, adapted.ours(apply_lora_to_mlp=True, lora_dropout=0.1, **MIXED))
    assert found["target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"]
    assert (found["r"], found["rank_pattern"]) == (8, {"down_proj": 4, "model.layers.0.self_attn.q_proj": 2})
    assert (found["lora_alpha"], found["alpha_pattern"]) == (16, {"k_proj": 3, "model.layers.1.mlp.gate_proj": 2.5})
    assert isinstance(found["lora_alpha"], int) and found["lora_dropout"] == 0.1 and found["modules_to_save"] is None
    assert found["base_model_name_or_path"] == str(adapted.folder)
    default = LoraConfig(task_type="CAUSAL_LM").to_dict()
    assert found.keys() <= default.keys()
    fixed = ("peft_type", "task_type", "revision", "bias", "fan_in_fan_out", "init_lora_weights", "use_dora")
    assert all(found[key] == default[key] for key in fixed) and found["inference_mode"]


def test_short_names_mean_no_other_layer(adapted, tmp_path):
    adapted = adapted(**UNTIED)
    ours = adapted.ours(["layers.1.attn.q_proj"], trainable_modules=["norm"])
    found = config_of(adapted, tmp_path, ours)
    assert found["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    assert found["modules_to_save"] == ["model.norm"]
    adapted.assert_same(ours, in_peft(adapted, tmp_path / "adapter"))
