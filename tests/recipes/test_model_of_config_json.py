"""Every recipe says so when the config's model is not the one that ``config.json`` describes."""

import logging

import pytest
import yaml
from tiny_run import recipe_module

from torchtune.cli import catalog

OTHER = ["model.rope_base=10000", "model.norm_eps=1e-6"]
SAID = [
    "rope base 500,000; the model has 10,000 (layers 0 to 1)",
    "norm eps 1e-05; the model has 1e-06 (layers 0 to 1)",
]


@pytest.mark.parametrize("processes", [1, 2])
def test_fine_tuning_goes_on_and_the_first_process_says_it(tiny, processes):
    ended = tiny.run(f"other-{processes}", *OTHER, *tiny.adapters(), "max_steps_per_epoch=1", processes=processes)
    assert ended.code == 0, ended.err
    said = ended.out + ended.err
    assert [said.count(f"config.json says {sentence}") for sentence in SAID] == [1, 1]
    assert said.count("is not the one that") == 1


def test_fine_tuning_says_it_again_when_it_goes_on(tiny):
    words = [*OTHER, "max_steps_per_epoch=1", "epochs=1"]
    assert tiny.run("again", *words).code == 0
    ended = tiny.run("again", *words, "epochs=2", "resume_from_checkpoint=True")
    assert ended.code == 0 and SAID[0] in ended.out + ended.err


def test_the_model_of_config_json_is_not_worth_a_word(tiny):
    ended = tiny.run("same", "max_steps_per_epoch=1", "model.max_seq_len=320", "model.attn_dropout=0.1")
    assert ended.code == 0 and "config.json" not in ended.out + ended.err


@pytest.fixture
def run(tiny, caplog, tmp_path):
    """Runs a recipe in this process with the config that ships, for the tiny model; gives the warnings."""

    def run(recipe: str, name: str, *words: str) -> str:
        content = yaml.safe_load(catalog.find_config(name).path.read_text())
        content.pop("checkpoint_dir", None)
        trained = yaml.safe_load(tiny.config.read_text())
        content |= {key: trained[key] for key in ("model", "device", "dtype")}
        content["tokenizer"] = trained["tokenizer"] | {"max_seq_len": None}
        content["checkpointer"] |= {"checkpoint_dir": str(tiny.model), "model_type": "LLAMA3_2"}
        content |= {"output_dir": str(tmp_path / "out")}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        ours = logging.getLogger("torchtune")
        level, handlers = ours.level, ours.handlers[:]
        try:
            with caplog.at_level(logging.WARNING, "torchtune"):
                recipe_module(recipe).main(["--config", str(tmp_path / "config.yaml"), *words, "log_level=WARNING"])
        finally:
            ours.setLevel(level)
            ours.handlers[:] = handlers
        return caplog.text

    return run


@pytest.mark.parametrize(
    "recipe, name, word",
    [("generate", "generation", "max_new_tokens=2"), ("quantize", "quantization", "quantizer.groupsize=32")],
)
def test_other_recipes(run, recipe, name, word):
    assert SAID[0] in run(recipe, name, word, *OTHER)
