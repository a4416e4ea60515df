"""Experts in files: one tensor for each, in several files, put into stacks and taken apart one stack at a time."""

import json
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_read_memory import MEGABYTES, in_a_fork, megabytes
from torch import nn

from torchtune.errors import CheckpointError
from torchtune.models import family_of
from torchtune.training.adapters import BaseWeights
from torchtune.training.checkpointing import FullModelHFCheckpointer
from torchtune.training.checkpointing._base import FullModelCheckpointer
from torchtune.training.checkpointing._safetensors import Info, write_safetensors
from torchtune.training.model import fill

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 12,
    "max_position_embeddings": 64,
    "dtype": "bfloat16",
}
STACK = "layers.1.mlp.experts.gate_proj"


@pytest.fixture
def theirs():
    torch.manual_seed(0)
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZES)).to(torch.bfloat16).eval()


@pytest.fixture
def folder(theirs, tmp_path):
    """As transformers writes it, but that a layer's experts lie in several files."""
    folder = tmp_path / "base"
    theirs.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file_of = {name: f"model-{i % 5 + 1:05}-of-00005.safetensors" for i, name in enumerate(tensors)}
    for file in set(file_of.values()):
        save_file({name: tensor for name, tensor in tensors.items() if file_of[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))
    return folder


def native(folder):
    config = json.loads((folder / "config.json").read_text())
    with torch.device("meta"):
        return family_of(config).build(config).state_dict()


def files_of(folder, text):
    """The files that hold tensors with this in their names."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    return {name: index[name] for name in index if text in name}


@pytest.mark.parametrize("safe", [True, False])
def test_round_trip_opens_in_transformers(theirs, folder, tmp_path, safe):
    of_one_stack = {file for name, file in files_of(folder, "layers.1.").items() if name.endswith("w1.weight")}
    assert len(of_one_stack) > 1
    ours = FullModelHFCheckpointer(folder, output_dir=tmp_path / "out", safe_serialization=safe)
    ours.save_checkpoint({"model": dict(ours.weights(native(folder)))}, epoch=0, max_shard_size="20KB")
    written = tmp_path / "out" / "epoch_0"
    after, info = transformers.MixtralForCausalLM.from_pretrained(
        written, output_loading_info=True, use_safetensors=safe
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    tokens = torch.arange(20).view(2, 10)
    assert torch.equal(theirs(tokens).logits, after.to(torch.bfloat16)(tokens).logits)
    # Without a model, as old recipes load it.
    whole = FullModelHFCheckpointer(written).load_checkpoint()["model"]
    assert whole.keys() == native(folder).keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in ours.weights(native(folder)))


def test_saved_as_is_in_the_order_of_the_weights(folder):
    ours = FullModelHFCheckpointer(folder)
    shapes = {name: tuple(tensor.shape) for name, tensor in native(folder).items()}
    saved = ours.saved_as(native(folder))
    assert list(saved) == [name for name, _ in ours.weights(native(folder))]
    assert saved == {name: (shapes[name], torch.bfloat16) for name in saved}


def test_missing_and_foreign_experts_are_told_in_one_line_each(folder):
    names = files_of(folder, "layers.1.block_sparse_moe.experts.")
    for i in (3, 7):
        name = f"model.layers.1.block_sparse_moe.experts.{i}.w1.weight"
        path = folder / names[name]
        save_file({k: v for k, v in load_file(path).items() if k != name}, path)
    with pytest.raises(CheckpointError) as told:
        FullModelHFCheckpointer(folder).weights(native(folder))
    assert "1 tensor(s) missing from the files:" in str(told.value)
    assert f"{STACK} (experts 3, 7 of 12)" in str(told.value)
    fewer = {name: t[:2] if "experts" in name or "router" in name else t for name, t in native(folder).items()}
    with pytest.raises(CheckpointError, match="58 tensor.s. in the files but not in the model") as told:
        FullModelHFCheckpointer(folder).weights(fewer)
    assert len(str(told.value).splitlines()) < 30


def test_a_file_that_cannot_be_read_is_named(folder, monkeypatch):
    ours = FullModelHFCheckpointer(folder)
    name = "model.layers.1.block_sparse_moe.experts.5.w1.weight"
    stream = ours.weights(native(folder))
    monkeypatch.setattr("builtins.open", _refuse(files_of(folder, name)[name]))
    with pytest.raises(CheckpointError, match=r"cannot read model\.\S+ from model-\d+-of-\d+\.safetensors: gone"):
        list(stream)


def _refuse(name):
    real = open

    def opened(path, *args, **kwargs):
        if str(path).endswith(name):
            raise OSError(5, "gone")
        return real(path, *args, **kwargs)

    return opened


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_stack_and_one_expert_are_in_memory(tmp_path):
    """Experts of 36 MB, two layers of four; one stack is 144 MB, all of them 288."""
    count, shape = 4, (1024, MEGABYTES * 256)
    names = [f"model.layers.{layer}.block_sparse_moe.experts.{i}.w1.weight" for layer in (0, 1) for i in range(count)]
    infos = {name: Info(shape, torch.float32) for name in names}
    write_safetensors(tmp_path / "model.safetensors", infos, ((name, torch.ones(shape)) for name in names))
    (tmp_path / "config.json").write_text(json.dumps(transformers.MixtralConfig(**SIZES).to_dict()))
    wanted = {f"layers.{layer}.mlp.experts.gate_proj": (count, *shape[::-1]) for layer in (0, 1)}

    def read():
        model = Stacks(wanted)
        before = megabytes("VmHWM")
        fill(model, BaseWeights(FullModelHFCheckpointer(tmp_path)).weights(model.state_dict()))
        assert all(parameter.min() == 1 for parameter in model.parameters())
        return megabytes("VmHWM") - before

    def write():
        shapes = {name: (of, torch.float32) for name, of in wanted.items()}
        stacks = ((name, torch.ones(of)) for name, of in wanted.items())
        before = megabytes("VmHWM")
        FullModelCheckpointer.write(_OnlyWeights(tmp_path, output_dir=tmp_path / "out"), tmp_path, stacks, shapes)
        return megabytes("VmHWM") - before

    assert in_a_fork(read) < (count + 1.5) * MEGABYTES
    assert in_a_fork(write) < (count + 2.5) * MEGABYTES  # and the bytes that are being written


class Stacks(nn.Module):
    """Parameters of these names and shapes, which take their memory from the start."""

    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            *owners, leaf = name.split(".")
            place = self
            for owner in owners:
                place = place._modules.setdefault(owner, nn.Module())
            place.register_parameter(leaf, nn.Parameter(torch.zeros(shape).fill_(0.5)))


class _OnlyWeights(FullModelHFCheckpointer):
    """Without the rest of a model."""

    def _config_changes(self, infos):
        return {}
