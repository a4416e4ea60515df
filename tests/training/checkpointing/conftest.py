"""Tiny Llamas that transformers made, as folders."""

import json

import pytest
import torch
import transformers

from torchtune.models import family_of

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class Llamas:
    """Makes folders, models on meta, and comparisons."""

    def __init__(self, root):
        self.root = root

    def theirs(self, **config):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES | config)).eval()

    def folder(self, name="base", max_shard_size="5GB", **config):
        path = self.root / name
        self.theirs(**config).save_pretrained(path, max_shard_size=max_shard_size)
        (path / "tokenizer.json").write_text("{}")
        (path / "LICENSE.txt").write_text("free")
        (path / "original").mkdir()
        (path / "original" / "params.json").write_text('{"dim": 32}')
        (path / ".cache").mkdir()
        (path / ".cache" / "x").write_text("x")
        return path

    def native(self, folder):
        """The state dict, on meta, of the model that the folder's config describes."""
        config = json.loads((folder / "config.json").read_text())
        with torch.device("meta"):
            return family_of(config).build(config).state_dict()


@pytest.fixture
def llamas(tmp_path):
    return Llamas(tmp_path)


@pytest.fixture
def shapes_of():
    return lambda state: {k: (tuple(v.shape), v.dtype) for k, v in state.items()}
