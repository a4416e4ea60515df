"""Whether the output projection is the embedding where the config does not say so: transformers 4 left that out."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from torchtune.errors import CheckpointError
from torchtune.models import family_of
from torchtune.training.checkpointing import FullModelHFCheckpointer

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "head_dim": 16,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}  # fmt: skip


def folder(path, model_type, *, untied=False):
    """Random weights, without or with an output projection, and a config that does not say which."""
    config = {"model_type": model_type, "rms_norm_eps": 1e-6, **SIZES}
    native = family_of(config).build(config).state_dict()
    native.pop("output.weight", None)
    if untied:
        native["output.weight"] = torch.randn(50, 32)
    path.mkdir()
    save_file(family_of(config).hf.to_foreign(native, head_dim=16), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return path


def shapes(*, tied):
    config = {"model_type": "llama", **SIZES, "tie_word_embeddings": tied}
    with torch.device("meta"):
        return family_of(config).build(config).state_dict()


def test_a_llama_is_untied_so_a_tied_model_does_not_drop_its_output_projection(tmp_path):
    source = FullModelHFCheckpointer(folder(tmp_path / "llama", "llama", untied=True))
    assert "output.weight" in dict(source.weights(shapes(tied=False)))
    with pytest.raises(CheckpointError, match="in the files but not in the model:\n.*lm_head.weight"):
        dict(source.weights(shapes(tied=True)))


def test_a_llama_is_untied_so_an_output_projection_that_is_lacking_is_missed(tmp_path):
    source = FullModelHFCheckpointer(folder(tmp_path / "llama", "llama"))
    with pytest.raises(CheckpointError, match="missing from the files:\n.*output.weight"):
        dict(source.weights(shapes(tied=False)))


@pytest.mark.parametrize("model_type", ["gemma", "smollm3"])
def test_families_that_are_tied(tmp_path, model_type):
    """An untied model starts with the embedding, and what is written then says that it is untied."""
    source = FullModelHFCheckpointer(folder(tmp_path / "base", model_type), output_dir=str(tmp_path / "out"))
    config = json.loads((tmp_path / "base/config.json").read_text()) | {"tie_word_embeddings": False}
    with torch.device("meta"):
        native = family_of(config).build(config).state_dict()
    state = dict(source.weights(native))
    assert torch.equal(state["output.weight"], state["tok_embeddings.weight"])
    state["output.weight"] = state["output.weight"] + 1
    source.save_checkpoint({"model": state}, epoch=0)
    assert json.loads((tmp_path / "out/epoch_0/config.json").read_text())["tie_word_embeddings"] is False
    written = dict(FullModelHFCheckpointer(str(tmp_path / "out/epoch_0")).weights(native))
    assert torch.equal(written["output.weight"], state["output.weight"])


@pytest.mark.parametrize("model_type", ["gemma", "smollm3"])
def test_a_copy_of_the_embedding_in_the_files_of_a_tied_model_is_passed_by(tmp_path, model_type):
    path = folder(tmp_path / "base", model_type)
    tensors = load_file(path / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    with torch.device("meta"):
        native = family_of(config).build(config).state_dict()
    assert dict(FullModelHFCheckpointer(path).weights(native)).keys() == native.keys()
