"""The check of an export: what it measures, and that it finds what is broken on purpose."""

import json
import shutil
import sys
from importlib import import_module
from itertools import product

import pytest
import torch
from export_models import LLAMA3_TEMPLATE, edit
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from torchtune.errors import CheckpointError, MissingDependency
from torchtune.export import Options, _gguf, _gguf_tensors, _gguf_tokenizer, _readers, export_to
from torchtune.export._source import open_source
from torchtune.export._verify import TOLERANCE, verify
from torchtune.models._tensor_forms import to_halves


def report_of(folder):
    return json.loads((folder / "verify.json").read_text())


@pytest.mark.parametrize(
    ("model", "to"),
    [
        *product(("llama3", "bf16", "llama2"), ("hf", "gguf", "ollama", "torchtune", "meta")),
        *product(("mistral_7b", "nemo"), ("hf", "gguf", "torchtune")),
    ],
)
def test_a_sound_export(models, export, model, to):
    report = report_of(export(models[model], to, verify=True))
    assert report["format"] == to and report["source"] == str(models[model])
    assert report["weights"] == {"tensors": 20 + (model != "llama3"), "different": 0}
    logits = report["logits"]
    assert logits["max_abs_difference"] <= 0.1 * logits["tolerance"] and logits["tokens"] > 100
    assert report["greedy"]["prompts"] == 3 and report["texts"]["different"] == 0 == report["dialogues"]["different"]
    assert report["rounding"] is None and "torch" in report["read_with"]


@pytest.mark.parametrize(
    ("to", "options"), [("hf", {"dtype": "bf16"}), ("gguf", {"quantize": "q4_0"}), ("meta", {"dtype": "fp16"})]
)
def test_rounding_is_told_apart_from_a_difference(models, export, to, options):
    """The export is compared with the same weights rounded the same way; what that costs is a number of its own."""
    report = report_of(export(models["llama3"], to, verify=True, **options))
    assert report["weights"]["different"] == 0
    assert report["rounding"]["max_abs_difference"] > 10 * report["logits"]["tolerance"] > 0
    assert 0 < report["rounding"]["mean_kl_nats"] and 0 < report["rounding"]["same_likeliest_token"] <= 1


def broken(models, tmp_path, change, to="hf", model="llama3"):
    """What the check says of an export that something happened to."""
    folder = export_to(models[model], to, tmp_path / to, Options())
    change(folder)
    source = open_source(models[model], None)
    plan = import_module(f"torchtune.export._{to}").plan(source, Options())
    with pytest.raises(CheckpointError) as caught:
        verify(source, plan, folder, to)
    return str(caught.value)


def change_weights(name, change):
    def apply(folder):
        file = next(folder.glob("*.safetensors"))
        tensors = load_file(file)
        tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, file, metadata={"format": "pt"})

    return apply


def test_permuted_projection(models, tmp_path):
    name = "model.layers.1.self_attn.q_proj.weight"
    said = broken(models, tmp_path, change_weights(name, lambda rows: to_halves(rows, 16)))
    assert "1 of 20 weights have other bits, for example layers.1.attn.q_proj.weight" in said
    assert "logits differ by up to" in said and "greedy tokens" in said


def test_a_single_weight(models, tmp_path):
    """One number of a token that no prompt has: the logits do not show it, the bits do."""

    def touch(rows):
        rows[-1, 0] += 1e-3
        return rows

    said = broken(models, tmp_path, change_weights("model.embed_tokens.weight", touch))
    assert "1 of 20 weights" in said and "greedy" not in said


@pytest.mark.parametrize("change", [{"rms_norm_eps": 1e-2}, {"rope_theta": 10_000.0}, {"rope_scaling": None}])
def test_config(models, tmp_path, change):
    said = broken(models, tmp_path, lambda folder: edit(folder / "config.json", **change))
    assert "logits differ" in said and "weights" not in said.partition("\n")[2]


def test_chat_template(models, tmp_path):
    wrong = LLAMA3_TEMPLATE.replace("<|eot_id|>", "<|eom_id|>")
    said = broken(models, tmp_path, lambda folder: (folder / "chat_template.jinja").write_text(wrong))
    assert "3 of 3 dialogues are written otherwise: ('<|begin_of_text|>" in said and "logits" not in said
    said = broken(models, tmp_path / "gone", lambda folder: (folder / "chat_template.jinja").unlink())
    assert "are written otherwise: None, ours ('<|begin_of_text|>" in said


def test_special_token_that_is_read_as_text(models, tmp_path):
    def plain(folder):
        content = json.loads((folder / "tokenizer.json").read_text())
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<|eot_id|>"]
        (folder / "tokenizer.json").write_text(json.dumps(content))
        edit(folder / "tokenizer_config.json", eos_token=None)

    assert "3 of 3 dialogues are written otherwise" in broken(models, tmp_path, plain)


def test_tokenizer(models, tmp_path):
    def swap(folder):
        content = json.loads((folder / "tokenizer.json").read_text())
        vocab = content["model"]["vocab"]
        vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
        (folder / "tokenizer.json").write_text(json.dumps(content))

    assert "texts become other tokens: 'The boat" in broken(models, tmp_path, swap)


def test_missing_weight(models, tmp_path):
    def drop(folder):
        file = next(folder.glob("*.safetensors"))
        tensors = load_file(file)
        del tensors["model.norm.weight"]
        save_file(tensors, file, metadata={"format": "pt"})
        (folder / "model.safetensors.index.json").unlink()
        file.rename(folder / "model.safetensors")

    assert "transformers misses ['model.norm.weight']" in broken(models, tmp_path, drop)


GGUF_FAULTS = {
    "rope factors": (_gguf, "rope_tensors", lambda row, arch: {"rope_freqs.weight": torch.ones(8)}, "logits differ"),
    "pre-tokenizer": (_gguf_tokenizer, "pre_tokenizer", lambda content, path: "gpt-2", "texts become other tokens"),
    "chat template": (
        _gguf_tokenizer,
        "template_of",
        lambda folder: "{{ messages[0].content }}",
        "dialogues are written",
    ),
}


@pytest.mark.parametrize("fault", GGUF_FAULTS)
def test_gguf_made_wrong(models, export, tmp_path, monkeypatch, fault):
    """And then no folder is left that somebody could take for a sound one."""
    module, name, wrong, said = GGUF_FAULTS[fault]
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(CheckpointError, match=f"(?s)the export to gguf is not the model in .*{said}"):
        export(models["llama3"], "gguf", verify=True)
    assert not list(tmp_path.iterdir())


def test_gguf_with_wrong_order_of_channels(models, export, monkeypatch):
    rows = _gguf_tensors.Storage.array

    def permuted(self, name, tensor):
        return rows(self, name, to_halves(tensor, 16) if name.endswith("q_proj.weight") else tensor)

    monkeypatch.setattr(_gguf_tensors.Storage, "array", permuted)
    with pytest.raises(CheckpointError, match="2 of 20 weights have other bits"):
        export(models["llama3"], "gguf", verify=True)


def test_equally_likely_tokens_are_no_difference(models, export, monkeypatch, tmp_path):
    """Two rows of the output projection alike: which of the two tokens comes is a matter of rounding."""
    folder = shutil.copytree(models["bf16"], tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] *= 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(_readers.TransformersReader, "greedy", lambda self, prompt, number: [7] * number)
    report = report_of(export(folder, "hf", verify=True))
    assert report["greedy"]["ties"] == report["greedy"]["prompts"]


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_end_tokens_do_not_end_the_comparison(models, export, tmp_path, to):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    for name in ("config.json", "generation_config.json"):
        edit(folder / name, eos_token_id=list(range(1011)))
    edit(folder / "generation_config.json", do_sample=True, temperature=9.0, min_new_tokens=3, repetition_penalty=5.0)
    assert report_of(export(folder, to, verify=True))["greedy"]["ties"] == 0


def test_notes(models, export, tmp_path):
    assert report_of(export(models["llama3"], "hf", verify=True))["notes"] == []
    notes = report_of(export(models["llama2"], "gguf", verify=True))["notes"]
    assert "otherwise than the tokenizer" in notes[0] and "another space" in notes[1]
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    report = report_of(export(folder, "hf", verify=True, force=True))
    assert report["dialogues"] is None and "there is no chat template" in report["notes"][0]


def test_no_tokenizer(models, export, tmp_path):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    report = report_of(export(folder, "hf", verify=True))
    assert report["texts"] is None and report["dialogues"] is None and report["logits"]["tokens"] > 100


@pytest.mark.parametrize(("to", "package"), [("hf", "transformers"), ("peft", "peft")])
def test_without_the_other_program(models, tmp_path, monkeypatch, to, package):
    monkeypatch.setattr("torchtune.export._write.find_spec", lambda name: None if name == package else sys)
    if to == "peft":
        base = AutoModelForCausalLM.from_pretrained(models["llama3"])
        get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    source = tmp_path / "adapter" if to == "peft" else models["llama3"]
    with pytest.raises(MissingDependency, match=f"reads the export back with {package}.*pip install {package}"):
        export_to(source, to, tmp_path / "out", Options(verify=True))
    assert not (tmp_path / "out").exists()


def test_the_tolerance_lies_between_rounding_and_the_smallest_fault(models, export):
    """Rounding all weights to bfloat16, which nobody sees in an answer, moves the logits a hundred times further."""
    report = report_of(export(models["llama3"], "hf", dtype="bf16", verify=True))
    largest = report["logits"]["tolerance"] / TOLERANCE
    assert report["logits"]["max_abs_difference"] < 1e-5 * largest < 1e-2 * largest
    assert report["rounding"]["max_abs_difference"] > 1e-3 * largest
