"""What a checkpoint's folder gets."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import make_model

from torchtune.models.llama3_2 import llama3_2, lora_llama3_2
from torchtune.training import FullModelHFCheckpointer
from torchtune.training.adapters import BaseWeights, start_adapters
from torchtune.training.checkpointing._atomic import commit_folder, fault
from torchtune.training.contents import contents_of
from torchtune.training.distributed import World
from torchtune.training.model import load_model

ALONE = World(0, 1, torch.device("cpu"))
SIZES = {"vocab_size": 271, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "max_seq_len": 320}
SIZES |= {"intermediate_dim": 128}


@pytest.fixture
def folder(tmp_path):
    return make_model(tmp_path / "base")


def opened(folder, build):
    checkpointer = FullModelHFCheckpointer(str(folder), output_dir=str(folder.parent))
    base = BaseWeights(checkpointer)
    return load_model(build, base.weights, ALONE, dtype=torch.float32), checkpointer, base


def adapted():
    return lora_llama3_2(["q_proj"], **SIZES, lora_rank=2, lora_alpha=4)


def written(folder, contents) -> set[str]:
    target = folder.parent / "epoch_0"
    target.mkdir()
    contents.write(target)
    files = {p.relative_to(target).as_posix(): p.stat().st_size for p in target.rglob("*") if p.is_file()}
    weights = sum(size for name, size in files.items() if name.endswith((".safetensors", ".pt")))
    assert 0.9 * weights < contents.bytes < 1.1 * weights
    return set(files)


def test_a_whole_model(folder):
    model, checkpointer, base = opened(folder, lambda: llama3_2(**SIZES))
    files = written(folder, contents_of(model, checkpointer, base, ALONE))
    assert "config.json" in files and not any("adapter" in name for name in files)
    again = load_file(folder.parent / "epoch_0" / "model-00001-of-00001.safetensors")
    before = load_file(folder / "model.safetensors")
    assert again.keys() == before.keys() and all(torch.equal(again[name], before[name]) for name in before)


def test_files_that_go_along(folder):
    """They replace what the base has of the same name, and belong to the checkpoint like all others."""
    model, checkpointer, base = opened(folder, lambda: llama3_2(**SIZES))
    files = {"LICENSE.txt": "dear\n", "chat_template.jinja": "{{ messages }}"}
    contents = contents_of(model, checkpointer, base, ALONE, files=files)
    target = folder.parent / "epoch_0"
    commit_folder(target, contents.write, facts={}, needed_bytes=0)
    assert {name: (target / name).read_text() for name in files} == files
    assert fault(target) is None
    other = contents_of(model, checkpointer, base, World(1, 2, torch.device("cpu")), files=files)
    assert other.write(folder) == {} and (folder / "LICENSE.txt").read_text() == "free\n"


def test_only_the_main_process_writes_adapters(folder, tmp_path):
    model, checkpointer, base = opened(folder, adapted)
    start_adapters(model, 0)
    contents = contents_of(model, checkpointer, base, World(1, 2, torch.device("cpu")))
    (tmp_path / "empty").mkdir()
    assert contents.write(tmp_path / "empty") == {} and not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("fault", ["gone", "another"])
def test_adapters_are_saved_though_their_base_is_lost(folder, fault, caplog):
    model, checkpointer, base = opened(folder, adapted)
    start_adapters(model, 0)
    contents = contents_of(model, checkpointer, base, ALONE)
    if fault == "gone":
        shutil.rmtree(folder)
    else:
        other = make_model(folder.parent / "other")
        tensors = load_file(other / "model.safetensors")
        torch.save({name: tensor + 1 for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    target = folder.parent / "epoch_0"
    target.mkdir()
    contents.write(target)
    names = {p.name for p in target.iterdir()}
    assert {"adapter_model.pt", "adapter_model.safetensors", "adapter_config.json"} <= names
    assert not any(name.startswith("model-") for name in names) and "config.json" not in names
    assert "without merged weights" in caplog.text
