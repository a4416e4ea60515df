"""The quantization recipe: from a float folder to answers of the quantised model, in one process."""

import dataclasses
import json
import logging
import re
from importlib.metadata import version

import pytest
import torch
import transformers
import yaml
from tiny_run import REPO, recipe_module

from torchtune import config
from torchtune.cli import catalog
from torchtune.config.schema import GenerateConfig, QuantizeConfig
from torchtune.errors import ConfigError
from torchtune.training.inference import load_for_inference

FOUR = ["quantizer.groupsize=32"]
EIGHT = ["quantizer=Int8WeightOnlyQuantizer"]
NAMES = {"8da4w": FOUR, "8w": EIGHT}
TOKENS = torch.arange(3, 60).view(3, 19)


def run(recipe, content, path, *words):
    """The recipe in this process, with the config as a file."""
    path.write_text(yaml.safe_dump(content))
    ours = logging.getLogger("torchtune")
    level, handlers = ours.level, ours.handlers[:]
    try:
        recipe_module(recipe).main(["--config", str(path), *words])
    finally:
        ours.setLevel(level)
        ours.handlers[:] = handlers


def shipped(tiny, name, folder=None):
    """A config that ships, for the tiny model in a folder."""
    content = yaml.safe_load(catalog.find_config(name).path.read_text())
    trained = yaml.safe_load(tiny.config.read_text())
    content |= {key: trained[key] for key in ("model", "device", "dtype")}
    if "tokenizer" in content:
        content["tokenizer"] = trained["tokenizer"] | {"max_seq_len": None}
    content.pop("checkpoint_dir", None)
    content["checkpointer"] |= {"checkpoint_dir": str(folder or tiny.model), "model_type": "LLAMA3_2"}
    return content | {"output_dir": str(tiny.root / "quantised"), "log_level": "WARNING"}


@pytest.fixture(scope="module")
def folders(tiny):
    """Folders that the recipe made of the tiny model, by the quantizer's name."""
    for words in NAMES.values():
        run("quantize", shipped(tiny, "quantization"), tiny.root / "quantization.yaml", *words)
    return {name: tiny.root / "quantised" / name for name in NAMES}


def theirs(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_whole_and_transformers_loads_it(tiny, folders, name):
    beside = {path.name for path in tiny.model.iterdir() if path.suffix != ".safetensors" and path.name != "logs"}
    written = {path.name for path in folders[name].iterdir()}
    assert written == beside | {"MANIFEST.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"}
    facts = json.loads((folders[name] / "MANIFEST.json").read_text())["facts"]
    assert facts == {"quantizer": name, "torchao": version("torchao")}
    model = inference(tiny, folders[name])
    with torch.no_grad():
        assert torch.equal(model(TOKENS), theirs(folders[name])(TOKENS).logits)


def inference(tiny, folder, *words):
    """What generate and eleuther_eval load."""
    path = tiny.root / "inference.yaml"
    path.write_text(yaml.safe_dump(shipped(tiny, "generation", folder)))
    return load_for_inference(config.typed(GenerateConfig, config.load(path, list(words)).cfg))[0]


@pytest.mark.parametrize("name", NAMES)
def test_generate_answers_as_transformers_does(tiny, folders, name, capsys):
    content = shipped(tiny, "generation", folders[name])
    words = ["prompt=Once upon", "temperature=0", "max_new_tokens=12"]
    run("generate", content, tiny.root / "generation.yaml", *words)
    ours = capsys.readouterr().out.removesuffix("\n")
    tokenizer = config.instantiate(content["tokenizer"])
    ids = torch.tensor([tokenizer.encode("Once upon", add_eos=False)])
    how = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 12, "pad_token_id": 0}
    new = theirs(folders[name]).generate(ids, eos_token_id=tokenizer.stop_tokens, **how)[0, ids.shape[1] :].tolist()
    assert ours == tokenizer.decode([token for token in new if token not in tokenizer.stop_tokens])


def test_a_quantizer_changes_float_weights_as_they_are_loaded(tiny, folders):
    made = inference(tiny, tiny.model, *EIGHT)
    with torch.no_grad():
        torch.testing.assert_close(made(TOKENS), inference(tiny, folders["8w"])(TOKENS), atol=1e-5, rtol=0)
    assert torch.equal(inference(tiny, folders["8w"], *EIGHT)(TOKENS), inference(tiny, folders["8w"])(TOKENS))


def test_a_quantizer_that_cannot_work_is_refused_before_weights_are_read(tiny, monkeypatch):
    monkeypatch.setattr("torchtune.training.model.fill", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ConfigError, match="groups of 256 do not divide"):
        inference(tiny, tiny.model, "quantizer=Int8DynActInt4WeightQuantizer")


def test_a_second_run_replaces_the_first(tiny, folders):
    content = shipped(tiny, "quantization") | {"dtype": "bf16"}
    run("quantize", content, tiny.root / "again.yaml", *EIGHT, f"output_dir={tiny.root / 'again'}")
    run("quantize", content, tiny.root / "again.yaml", *EIGHT, f"output_dir={tiny.root / 'again'}", "dtype=fp32")
    weights = "model-00001-of-00001.safetensors"
    assert (tiny.root / "again" / "8w" / weights).read_bytes() == (folders["8w"] / weights).read_bytes()


def test_a_folder_without_config_json_is_refused(tiny, capsys):
    meta = tiny.root / "meta"
    meta.mkdir()
    content = shipped(tiny, "quantization")
    content["checkpointer"] |= {
        "_component_": "torchtune.training.FullModelMetaCheckpointer",
        "checkpoint_dir": str(meta),
    }
    with pytest.raises(SystemExit, match="2"):
        run("quantize", content, tiny.root / "meta.yaml")
    assert f"tune export {meta} --to hf" in capsys.readouterr().err


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(QuantizeConfig) if not f.metadata])
def test_the_key_is_read(key):
    read = "".join((REPO / name).read_text() for name in ("recipes/quantize.py", "torchtune/training/setup.py"))
    assert key == "recipe" or re.search(rf"\bcfg\.{key}\b", read), f"{key} is accepted and nothing reads it"


def test_torchtunes_config_is_one_for_this_recipe(tmp_path):
    content = yaml.safe_load(catalog.find_config("quantization").path.read_text())
    del content["recipe"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert catalog.guess_recipe(catalog.find_config(str(tmp_path / "mine.yaml"))).name == "quantize"
