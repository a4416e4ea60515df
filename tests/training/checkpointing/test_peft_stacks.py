"""Adapters of layers that are one in transformers: Phi 3's, with PEFT and transformers as the judges."""

import json
import logging
import re
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from torchtune.errors import CheckpointError
from torchtune.modules.peft import adapter_spec
from torchtune.training.checkpointing import FullModelTorchTuneCheckpointer

ALL = ("q_proj", "k_proj", "v_proj", "output_proj")
CASES = {
    "all": {"attention": ALL, "apply_lora_to_mlp": True},
    "two of three": {"attention": ("q_proj", "v_proj")},
    "the middle one": {"attention": ("k_proj",)},
    "one layer": {"attention": ("layers.1.attn.v_proj", "layers.0.mlp.w3")},
    "output": {"attention": ("v_proj",), "apply_lora_to_output": True, "trainable_modules": ["norm"]},
    "rslora": {"attention": ALL, "use_rslora": True},
    "dora": {"attention": ALL, "apply_lora_to_mlp": True, "use_dora": True},
    "patterns of one scale": {
        "attention": ALL,
        "apply_lora_to_mlp": True,
        "rank_pattern": {"k_proj": 3, "w2": 5, "layers.0.mlp.w1": 2},
        "alpha_pattern": {"k_proj": 6, "w2": 7, "layers.0.mlp.w1": 4},
    },
}
cases = pytest.mark.parametrize("settings", CASES.values(), ids=CASES)


@pytest.fixture
def phi(adapted):
    return adapted(model_type="phi3", num_key_value_heads=2)


def of_peft(phi, folder):
    """The base with a folder's adapter, which PEFT finds complete and without anything that it does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = PeftModel.from_pretrained(phi.theirs(), folder)
    result = model.load_adapter(folder, "again")
    assert not result.missing_keys and not result.unexpected_keys
    return model.eval()


@cases
def test_peft_loads_what_is_written(phi, tmp_path, settings):
    ours = phi.ours(**settings)
    phi.write(ours, tmp_path / "adapter")
    phi.assert_same(ours, of_peft(phi, tmp_path / "adapter"))
    assert (phi.logits(ours) - phi.logits(phi.theirs())).abs().max() > 0.1
    names = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert not any(part in name for name in names for part in (".q_proj", ".v_proj", ".gate_proj", ".up_proj"))


@cases
def test_it_comes_back_with_every_bit(phi, tmp_path, settings):
    ours = phi.ours(**settings).bfloat16()
    phi.write(ours, tmp_path / "adapter")
    for source in (tmp_path / "adapter", tmp_path / "adapter/adapter_model.pt"):
        loaded = phi.checkpointer.adapter(source, head_dim=ours.head_dim)
        expected, spec = phi.tensors(ours), adapter_spec(ours)
        assert loaded.tensors.keys() == expected.keys() == loaded.infos.keys() and loaded.base == "a base"
        for name, tensor in expected.items():
            assert torch.equal(loaded.tensors[name], tensor) and loaded.infos[name] == tensor.shape
        assert (loaded.spec.ranks, loaded.spec.alphas) == (spec.ranks, spec.alphas)
        assert set(loaded.spec.trained) == set(spec.trained)
    phi.fill(phi.ours(**settings), tmp_path / "adapter")


@cases
def test_our_own_file_needs_only_the_config(phi, tmp_path, settings):
    ours = phi.ours(**settings)
    phi.write(ours, tmp_path / "adapter")
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    loaded = phi.checkpointer.adapter(tmp_path / "adapter", head_dim=ours.head_dim)
    spec = adapter_spec(ours)
    assert loaded.spec.ranks == spec.ranks and loaded.spec.alphas == pytest.approx(spec.alphas, rel=1e-12)


def test_fresh_adapters_come_back_too(phi, tmp_path):
    """B is zero, so that only the file's header tells the parts."""
    ours = phi.ours(["q_proj", "k_proj"])
    for name, parameter in ours.named_parameters():
        if "lora_b" in name:
            parameter.data.zero_()
    phi.write(ours, tmp_path / "adapter")
    phi.assert_same(phi.fill(phi.ours(["q_proj", "k_proj"]), tmp_path / "adapter"), ours)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_what_peft_trains_on_whole_layers_is_loaded(phi, tmp_path, settings):
    """Each part has the whole rank."""
    model = get_peft_model(phi.theirs(), LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(float(parameter.ndim == 1) + 0.3 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "theirs")
    ours = phi.fill(phi.ours(ALL, apply_lora_to_mlp=True, **settings), tmp_path / "theirs")
    phi.assert_same(ours, model.eval())


def test_what_peft_saves_again_is_whole_layers(phi, tmp_path):
    """The header of the file is lost; the model is the same, with adapters of the sum of the ranks."""
    ours = phi.ours(["q_proj", "v_proj"])
    phi.write(ours, tmp_path / "adapter")
    of_peft(phi, tmp_path / "adapter").save_pretrained(tmp_path / "again", selected_adapters=["default"])
    settings = {"lora_rank": 16, "lora_alpha": 32}
    phi.assert_same(phi.fill(phi.ours(ALL[:3], **settings), tmp_path / "again"), ours)
    with pytest.raises(CheckpointError, match="k_proj"):
        phi.fill(phi.ours(["q_proj", "v_proj"]), tmp_path / "again")


def test_the_config_says_the_whole_layers_rank_and_alpha(phi, tmp_path):
    phi.write(phi.ours(ALL[:3], apply_lora_to_mlp=True), tmp_path / "adapter")
    found = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    whole = {"qkv_proj": 24, "gate_up_proj": 16, "down_proj": 8}
    assert sorted(found["target_modules"]) == sorted(whole)
    for rank, alpha in ((found["r"], found["lora_alpha"]),):
        assert {**dict.fromkeys(whole, rank), **found["rank_pattern"]} == whole
        assert {**dict.fromkeys(whole, alpha), **found["alpha_pattern"]} == {k: 2 * v for k, v in whole.items()}
    phi.write(phi.ours(["layers.0.attn.q_proj"]), tmp_path / "one")
    found = json.loads((tmp_path / "one/adapter_config.json").read_text())
    assert found["target_modules"] == ["model.layers.0.self_attn.qkv_proj"]


REFUSED = {
    "scales": ({"attention": ALL[:2], "rank_pattern": {"k_proj": 2}}, r"one scale .*q_proj 2, .*k_proj 8"),
    "dora": ({"attention": ALL[:2], "use_dora": True}, r"as a whole; give layers\.0\.attn\.v_proj an adapter too"),
}


@pytest.mark.parametrize(("settings", "match"), REFUSED.values(), ids=REFUSED)
def test_what_one_layer_cannot_do_is_written_for_us_alone(phi, tmp_path, caplog, settings, match):
    ours = phi.ours(**settings)
    with caplog.at_level(logging.WARNING):
        records = phi.write(ours, tmp_path / "adapter", only=False)
    assert list(records) == ["adapter_model.pt"] and "not in PEFT's format" in caplog.text
    assert re.search(match, caplog.text)
    phi.assert_same(phi.fill(phi.ours(**settings), tmp_path / "adapter"), ours)


def test_without_config_json_only_whole_groups_are_written(phi, tmp_path, caplog):
    ours = phi.ours(["q_proj", "v_proj"])
    torch.save(ours.state_dict(), tmp_path / "model.pt")
    native = FullModelTorchTuneCheckpointer(tmp_path, "model.pt", "PHI3_MINI")
    about = {"base": None, "only": False, "head_dim": 8}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    native.write_adapter(tmp_path / "a", phi.tensors(ours), adapter_spec(ours), **about)
    assert "how many rows of it are layers.0.attn.k_proj is not known" in caplog.text
    ours = phi.ours(ALL)
    native.write_adapter(tmp_path / "b", phi.tensors(ours), adapter_spec(ours), **about)
    phi.assert_same(ours, of_peft(phi, tmp_path / "b/adapter"))


def test_parts_that_do_not_fit_are_refused(phi, tmp_path):
    ours = phi.ours(ALL[:3])
    phi.write(ours, tmp_path / "adapter")
    file = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        parts = json.loads(opened.metadata()["torchtune.parts"])
    parts["layers.0.attn.k_proj"][0] = 7
    save_file(tensors, file, {"torchtune.parts": json.dumps(parts)})
    with pytest.raises(CheckpointError, match=r"rank 24, but its parts are said to have \[8, 7, 8\]"):
        phi.checkpointer.adapter(tmp_path / "adapter", head_dim=8)
    name = "base_model.model.model.layers.0.self_attn.qkv_proj.lora_B.weight"
    save_file(tensors | {name: tensors[name][:-1].clone()}, file)
    with pytest.raises(CheckpointError, match=r"qkv_proj has 63 rows, but the model's has 64"):
        phi.checkpointer.adapter(tmp_path / "adapter", head_dim=8)
