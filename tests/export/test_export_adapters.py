"""Adapters: merged into a model on the way, or exported alone. PEFT makes them and says what they compute."""

import json
import shutil

import pytest
import torch
from export_models import edit
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from torchtune.errors import CheckpointError
from torchtune.export import Options, export_to
from torchtune.export._source import open_adapter

CASES = {
    "lora": {"target_modules": ["q_proj", "v_proj", "down_proj"], "r": 4, "lora_alpha": 12},
    "dora": {"target_modules": ["k_proj", "up_proj"], "r": 2, "lora_alpha": 8, "use_dora": True},
    "one layer": {"target_modules": ["layers.1.self_attn.q_proj"], "rank_pattern": {"q_proj": 3}, "use_rslora": True},
    "norms": {"target_modules": ["o_proj"], "modules_to_save": ["input_layernorm"], "r": 2},
}


def base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def adapter(models, tmp_path):
    """Makes an adapter with PEFT on the model "llama3", which it names as its base."""

    def make(case="lora", **config):
        torch.manual_seed(1)
        model = get_peft_model(base(models["llama3"]), LoraConfig(task_type="CAUSAL_LM", **CASES[case] | config))
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += torch.randn_like(weight) * 0.1
        model.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


@pytest.mark.parametrize("case", CASES)
def test_merged_model_computes_what_peft_computes(models, adapter, export, ids, case):
    theirs = PeftModel.from_pretrained(base(models["llama3"]), adapter(case)).eval()
    merged = base(export(adapter(case), "hf"))
    expected = theirs(ids).logits
    torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert (base(models["llama3"])(ids).logits - expected).abs().max() > 0.01


@pytest.mark.parametrize("case", CASES)
def test_adapter_alone(models, adapter, export, ids, case):
    source = adapter(case)
    folder = export(source, "peft", verify=True)
    one, two = (PeftModel.from_pretrained(base(models["llama3"]), place).eval() for place in (source, folder))
    assert not two.load_adapter(folder, "again").missing_keys
    assert torch.equal(one(ids).logits, two(ids).logits)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(models["llama3"])
    report = json.loads((folder / "verify.json").read_text())
    assert report["weights"] is None and report["logits"]["max_abs_difference"] < 1e-4


def test_every_format_of_a_model_takes_an_adapter(models, adapter, tmp_path):
    merged = export_to(adapter(), "hf", tmp_path / "merged", Options())
    expected = load_file(merged / "model-00001-of-00001.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    for to in ("torchtune", "meta", "gguf"):
        folder = export_to(adapter(), to, tmp_path / to, Options(verify=True))
        assert json.loads((folder / "verify.json").read_text())["weights"]["different"] == 0
    native = torch.load(tmp_path / "torchtune" / "model-00001-of-00001.pt", weights_only=True)
    assert torch.equal(native["layers.0.attn.q_proj.weight"].sort().values[0, 0], expected.sort().values[0, 0])


@pytest.mark.parametrize("inner", ["adapter", ""], ids=["ours", "torchtune's"])
def test_checkpoint_with_both_gives_the_model_or_the_adapter(models, adapter, tmp_path, inner):
    """As a run leaves it: merged weights, and the adapter in a folder of its own or, with torchtune, beside them."""
    epoch = export_to(adapter(), "hf", tmp_path / "epoch_0", Options())
    shutil.copytree(adapter(), epoch / inner, dirs_exist_ok=True)
    again = export_to(epoch, "hf", tmp_path / "again", Options())
    name = "model-00001-of-00001.safetensors"
    assert (again / name).read_bytes() == (epoch / name).read_bytes() and not list(again.glob("adapter*"))
    edit(epoch / inner / "adapter_config.json", base_model_name_or_path="somebody/something")
    alone = export_to(epoch, "peft", tmp_path / "alone", Options())
    assert json.loads((alone / "adapter_config.json").read_text())["base_model_name_or_path"] == "somebody/something"
    tensors = [load_file(f / "adapter_model.safetensors") for f in (alone, epoch / inner)]
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[1])


def test_base_that_is_given_counts(models, adapter, tmp_path):
    path = adapter()
    edit(path / "adapter_config.json", base_model_name_or_path="somebody/something")
    with pytest.raises(
        CheckpointError, match="'somebody/something', which is no folder here. Give its folder with --ba"
    ):
        export_to(path, "hf", tmp_path / "out", Options())
    export_to(path, "hf", tmp_path / "out", Options(base=models["llama3"]))
    edit(path / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match="no config beside it names it"):
        export_to(path, "peft", tmp_path / "alone", Options())


def test_another_base_is_refused(models, adapter, tmp_path):
    """By what a run notes of the weights, which is in the file that it wrote."""
    path = adapter()
    tensors = load_file(path / "adapter_model.safetensors")
    save_file(tensors, path / "adapter_model.safetensors", metadata={"torchtune.base": "0" * 64})
    with pytest.raises(CheckpointError, match="trained on other weights"):
        export_to(path, "hf", tmp_path / "out", Options())
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".export*"))


def test_adapter_of_another_model(models, adapter, tmp_path):
    config = LlamaConfig.from_pretrained(models["llama3"], num_hidden_layers=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "shallow")
    config = LlamaConfig.from_pretrained(models["llama3"], intermediate_size=96)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "narrow")
    for name in ("shallow", "narrow"):
        with pytest.raises(CheckpointError, match="does not fit the model"):
            export_to(adapter(), "hf", tmp_path / "out", Options(base=tmp_path / name))


def test_adapter_without_its_config(adapter, models, tmp_path):
    (tmp_path / "bare").mkdir()
    file = tmp_path / "bare" / "adapter_model.pt"
    torch.save(dict(open_adapter(adapter(), None).adapter.tensors.items()), file)
    with pytest.raises(CheckpointError, match="no adapter_config.json beside it"):
        export_to(file, "peft", tmp_path / "out", Options(base=models["llama3"]))
    shutil.copy(tmp_path / "adapter" / "adapter_config.json", file.parent)
    alone = export_to(file, "peft", tmp_path / "out", Options(base=models["llama3"]))
    expected = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    found = load_file(alone / "adapter_model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
