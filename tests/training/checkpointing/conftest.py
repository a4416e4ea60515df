"""Tiny Llamas that transformers made, as folders."""

import json

import pytest
import torch
import transformers

from torchtune.models import family_of
from torchtune.models._adapters import lora
from torchtune.modules.peft import adapter_names, adapter_spec
from torchtune.training.checkpointing import FullModelHFCheckpointer, check_adapter
from torchtune.training.model import base_tensors

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


class Adapted:
    """A Llama, or a model of another type, that transformers made, one of ours on the same weights, and adapters on
    either."""

    def __init__(self, root, model_type="llama", **config):
        self.folder = root / "base"
        config = transformers.AutoConfig.for_model(model_type, **SIZES | {"dtype": "float32"} | config)
        theirs = transformers.AutoModelForCausalLM.from_config(config)
        draw(theirs.named_parameters())
        theirs.save_pretrained(self.folder)
        self.checkpointer = FullModelHFCheckpointer(self.folder, output_dir=root / "out")
        self.tokens = torch.arange(24).view(2, 12)

    def theirs(self):
        return transformers.AutoModelForCausalLM.from_pretrained(self.folder).eval()

    def ours(self, attention=("q_proj", "k_proj", "v_proj", "output_proj"), **settings):
        """With adapters of random values, B too."""
        config = self.checkpointer.config
        model = lora(lambda: self.checkpointer.family.build(config), attention, **settings).eval()
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in self.checkpointer.weights(base_tensors(model)):
                parameters[name].copy_(tensor)
        draw((name, parameters[name]) for name in adapter_names(model))
        return model

    def tensors(self, model):
        parameters = dict(model.named_parameters())
        return {name: parameters[name].detach().clone() for name in adapter_names(model)}

    def write(self, model, folder, only=True, base="a base"):
        folder.mkdir(exist_ok=True)
        about = {"base": base, "only": only, "head_dim": model.head_dim}
        return self.checkpointer.write_adapter(folder, self.tensors(model), adapter_spec(model), **about)

    def fill(self, model, source, base=None):
        loaded = self.checkpointer.adapter(source, head_dim=model.head_dim)
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors(model).items()}
        check_adapter(loaded, adapter_spec(model), shapes, base)
        model.load_state_dict(dict(loaded.tensors), strict=False)
        return model

    def logits(self, model):
        with torch.no_grad():
            found = model(self.tokens)
        return getattr(found, "logits", found)

    def assert_same(self, one, other):
        ours, theirs = self.logits(one), self.logits(other)
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def draw(parameters):
    """Values large enough that every adapter shows in the logits; a norm's scales stay near one."""
    with torch.no_grad():
        for _, parameter in parameters:
            about = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(about + 0.3 * torch.randn(parameter.shape))


@pytest.fixture
def adapted(tmp_path):
    def make(**config):
        torch.manual_seed(0)
        return Adapted(tmp_path, **config)

    return make
