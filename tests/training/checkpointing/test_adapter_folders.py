"""Folders of a run with adapters, as transformers and PEFT open them."""

import json
import shutil

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from torchtune.modules.peft import get_merged_lora_ckpt
from torchtune.training.checkpointing import commit_folder, is_complete

SETTINGS = {"attention": ["q_proj", "v_proj"], "apply_lora_to_mlp": True, "use_dora": True}


class Run:
    """A finished run: its model, and the folder that it has written."""

    def __init__(self, adapted, only, **settings):
        self.adapted, self.model, self.base = adapted, adapted.ours(**settings), adapted.theirs()
        (adapted.folder / "tokenizer.json").write_text("{}")
        self.folder = adapted.checkpointer.output_dir / "epoch_0"
        commit_folder(self.folder, lambda to: self._merged(to, only) | adapted.write(self.model, to, only))

    def _merged(self, to, only):
        if only:
            return {}
        state = get_merged_lora_ckpt(dict(self.model.state_dict()), 8, 16)
        shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
        return self.adapted.checkpointer.write(to, state.items(), shapes)

    def names(self):
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())


@pytest.fixture(params=["on the Hub", "in a folder", "gone"])
def base(request, adapted):
    """A base whose name in the adapter's config leads nowhere, to its folder, or to where that was."""
    adapted = adapted(tie_word_embeddings=False)
    if request.param == "on the Hub":
        (adapted.folder / "original_repo_id.json").write_text(json.dumps({"repo_id": "nobody/has-this"}))
    adapted.gone = request.param == "gone"
    return adapted


@pytest.mark.parametrize("settings", [SETTINGS, {"trainable_modules": ["norm"]}], ids=["dora", "norm"])
def test_merged_weights_with_their_adapter(base, settings):
    run = Run(base, only=False, **settings)
    if base.gone:
        shutil.rmtree(base.folder)
    base.assert_same(AutoModelForCausalLM.from_pretrained(run.folder).eval(), run.model)
    base.assert_same(PeftModel.from_pretrained(run.base, run.folder, subfolder="adapter").eval(), run.model)
    assert is_complete(run.folder)
    assert [n for n in run.names() if not n.startswith("original_repo")] == [
        "MANIFEST.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter_model.pt",
        "config.json",
        "generation_config.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]


def test_beside_merged_weights_an_adapter_would_count_twice(adapted):
    """Why it lies in a folder of its own; when this fails, transformers has changed and it may move."""
    run = Run(adapted(), only=False, attention=["q_proj", "v_proj"])
    once = run.adapted.logits(AutoModelForCausalLM.from_pretrained(run.folder).eval())
    for path in (run.folder / "adapter").iterdir():
        path.rename(run.folder / path.name)
    twice = run.adapted.logits(AutoModelForCausalLM.from_pretrained(run.folder).eval())
    assert (once - twice).abs().max() > 0.1


def test_adapters_alone(base):
    run = Run(base, only=True, **SETTINGS)
    base.assert_same(PeftModel.from_pretrained(run.base, run.folder).eval(), run.model)
    expected = ["MANIFEST.json", "adapter_config.json", "adapter_model.pt", "adapter_model.safetensors"]
    expected += ["generation_config.json", "tokenizer.json"]
    assert [n for n in run.names() if not n.startswith("original_repo")] == expected


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({}, SETTINGS),
        ({}, {"use_rslora": True, "alpha_pattern": {"layers.1.attn.k_proj": 3}, "rank_pattern": {"q_proj": 2}}),
        ({"tie_word_embeddings": False}, {"apply_lora_to_output": True, "trainable_modules": ["norm"]}),
        ({"tie_word_embeddings": True}, {"trainable_modules": ["tok_embeddings"]}),
    ],
    ids=["dora", "patterns", "output and norm", "tied embedding"],
)
def test_transformers_finds_the_base_of_adapters_alone(adapted, config, settings):
    run = Run(adapted(**config), only=True, **settings)
    run.adapted.assert_same(AutoModelForCausalLM.from_pretrained(run.folder).eval(), run.model)
    shutil.rmtree(run.adapted.folder)
    with pytest.raises(OSError, match="base"):
        AutoModelForCausalLM.from_pretrained(run.folder)
