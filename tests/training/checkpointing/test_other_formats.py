"""Meta's and the library's own layouts, split releases, damaged files."""

import json
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from torchtune.errors import CheckpointError
from torchtune.models.convert_weights import tune_to_meta
from torchtune.training.checkpointing import (
    FullModelHFCheckpointer,
    FullModelMetaCheckpointer,
    FullModelTorchTuneCheckpointer,
    checkpointer_for,
    is_complete,
)
from torchtune.training.checkpointing._safetensors import Info, SafetensorsFile, split_into_shards, write_safetensors
from torchtune.training.checkpointing._torch_file import TorchFile, write_torch_file


@pytest.fixture
def state(llamas):
    base = llamas.folder(tie_word_embeddings=False)
    return dict(FullModelHFCheckpointer(base).weights(llamas.native(base)))


def meta_folder(path, state):
    path.mkdir()
    torch.save(tune_to_meta(state) | {"rope.freqs": torch.zeros(4)}, path / "consolidated.00.pth")
    (path / "params.json").write_text("{}")
    (path / "checklist.chk").write_text("old sums")
    return path


def on_meta(state):
    return {k: v.to("meta") for k, v in state.items()}


def test_meta_round_trip(tmp_path, state):
    base = meta_folder(tmp_path / "meta", state)
    checkpointer = checkpointer_for(base, tmp_path / "out")
    assert isinstance(checkpointer, FullModelMetaCheckpointer)
    found = dict(checkpointer.weights(on_meta(state)))
    assert found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)
    checkpointer.save_checkpoint({"model": found}, epoch=0, intermediate_checkpoint=True)
    written = tmp_path / "out" / "epoch_0"
    assert sorted(p.name for p in written.iterdir()) == ["MANIFEST.json", "consolidated.00.pth", "params.json"]
    theirs = torch.load(written / "consolidated.00.pth", weights_only=True)
    assert all(torch.equal(theirs[k], v) for k, v in tune_to_meta(state).items())
    assert is_complete(written)
    again = FullModelMetaCheckpointer(base, output_dir=tmp_path / "out", resume_from_checkpoint=True)
    assert all(torch.equal(v, state[k]) for k, v in again.load_checkpoint()["model"].items())


def test_meta_gets_the_head_of_a_tied_model(tmp_path, state):
    base = meta_folder(tmp_path / "meta", state)
    tied = {k: v for k, v in state.items() if k != "output.weight"}
    checkpointer = FullModelMetaCheckpointer(base, output_dir=tmp_path / "out")
    assert dict(checkpointer.weights(on_meta(tied))).keys() == tied.keys()
    checkpointer.save_checkpoint({"model": tied}, epoch=0)
    theirs = torch.load(tmp_path / "out/epoch_0/consolidated.00.pth", weights_only=True)
    assert torch.equal(theirs["output.weight"], state["tok_embeddings.weight"])


@pytest.mark.parametrize("embedding_dim", [0, 1])
def test_model_parallel_parts_are_joined(tmp_path, state, embedding_dim):
    """Split as fairscale's layers split: columns of wo and w2, rows of the others, vectors everywhere."""
    base = tmp_path / "parts"
    base.mkdir()
    dims = {"wo": 1, "w2": 1, "tok_embeddings": embedding_dim}
    whole = tune_to_meta(state)
    for part in range(2):
        shard = {
            k: v if v.ndim == 1 else v.chunk(2, dims.get(k.split(".")[-2], 0))[part].clone() for k, v in whole.items()
        }
        torch.save(shard | {"rope.freqs": torch.zeros(4)}, base / f"consolidated.{part:02}.pth")
    found = dict(FullModelMetaCheckpointer(base).weights(on_meta(state)))
    assert found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)
    assert torch.equal(FullModelMetaCheckpointer(base).load_checkpoint()["model"]["norm.scale"], state["norm.scale"])
    with pytest.raises(CheckpointError, match=r"consolidated\.00\.\.consolidated\.01|consolidated.00.pth..cons"):
        FullModelMetaCheckpointer(base).weights(on_meta(state) | {"norm.scale": torch.empty(7, device="meta")})
    (base / "consolidated.00.pth").unlink()
    with pytest.raises(CheckpointError, match=r"lacks consolidated\.00\.pth"):
        FullModelMetaCheckpointer(base).weights(on_meta(state))


def test_native_round_trip(tmp_path, state):
    base = tmp_path / "native"
    base.mkdir()
    torch.save(state, base / "model.pt")
    checkpointer = checkpointer_for(base / "model.pt", tmp_path / "out")
    assert isinstance(checkpointer, FullModelTorchTuneCheckpointer)
    found = dict(checkpointer.weights(on_meta(state)))
    checkpointer.save_checkpoint({"model": found}, epoch=2)
    written = torch.load(tmp_path / "out/epoch_2/model-00001-of-00001.pt", weights_only=True)
    assert list(written) == list(state) and all(torch.equal(written[k], state[k]) for k in state)
    assert torch.equal(
        checkpointer_for(tmp_path / "out/epoch_2").load_checkpoint()["model"]["norm.scale"], state["norm.scale"]
    )
    with pytest.raises(CheckpointError, match="extra.weight"):
        checkpointer.weights(on_meta(state) | {"extra.weight": torch.empty(1, device="meta")})


ODD = {
    "matrix": torch.randn(9, 7).bfloat16(),
    "vector": torch.randn(3),
    "ints": torch.arange(5),
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(3.0),
    "flags": torch.tensor([True, False]),
    "eight": torch.randn(4, 4).to(torch.float8_e4m3fn),
}
ODD_INFOS = {k: Info(tuple(v.shape), v.dtype) for k, v in ODD.items()}


def same(a, b):
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    )


def test_safetensors_agree_with_the_library(tmp_path):
    save_file(ODD, tmp_path / "theirs.safetensors")
    file = SafetensorsFile(tmp_path / "theirs.safetensors")
    assert all(same(file.read(k), v) for k, v in ODD.items())
    assert same(file.read("matrix", (2, 5)), ODD["matrix"][2:5])
    for shard in split_into_shards(ODD_INFOS, 10**9):
        write_safetensors(tmp_path / "ours.safetensors", shard, [(k, ODD[k]) for k in shard])
        theirs = load_file(tmp_path / "ours.safetensors")
        assert theirs.keys() == shard.keys() and all(same(theirs[k], ODD[k]) for k in shard)


def test_torch_files_agree_with_torch(tmp_path):
    path = tmp_path / "ours.pt"
    record = write_torch_file(path, ODD_INFOS, reversed(ODD.items()), same={"alias": "matrix"})
    theirs = torch.load(path, weights_only=True)
    assert all(same(theirs[k], v) for k, v in ODD.items()) and list(theirs) == [*ODD, "alias"]
    assert theirs["alias"].data_ptr() == theirs["matrix"].data_ptr()
    assert zipfile.ZipFile(path).testzip() is None  # every checksum is right
    assert record.bytes == path.stat().st_size


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -2000])
def test_truncated_safetensors(tmp_path, keep):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="x.safetensors is truncated"):
        SafetensorsFile(path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": 3},
        {x: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for x in "ab"},
        [1],
    ],
)
def test_corrupt_headers(tmp_path, header):
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match="x.safetensors is corrupt"):
        SafetensorsFile(path)


def test_other_things_named_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<html>" * 9, "not safetensors"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            SafetensorsFile(path)


@pytest.mark.parametrize("damage", ["half", "empty", "tail", "text"])
def test_damaged_torch_files(tmp_path, damage):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    data = path.read_bytes()
    damaged = {"half": data[: len(data) // 2], "empty": b"", "tail": data[:-300] + bytes(300), "text": b"hello " * 99}
    path.write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match="x.pth is (truncated|corrupt)"):
        TorchFile(path)


class Attack:
    def __reduce__(self):
        return (eval, ("open('pwned', 'w')",))


def test_a_pickle_runs_nothing_and_gets_no_advice_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Attack()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="asks for .*eval") as caught:
        TorchFile(tmp_path / "x.pth")
    assert "weights_only" not in str(caught.value) and not (tmp_path / "pwned").exists()


def test_old_and_nested_torch_files(tmp_path):
    a = torch.arange(3)
    torch.save({"a": a}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": {"a": a}, "epoch": 3}, tmp_path / "nested.pt")
    for name in ("old.pth", "nested.pt"):
        assert torch.equal(TorchFile(tmp_path / name).read("a"), a)
    torch.save({"a": a, "epoch": 3}, tmp_path / "mixed.pt")
    with pytest.raises(CheckpointError, match="epoch"):
        TorchFile(tmp_path / "mixed.pt")


def test_a_file_that_shrinks_while_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    file = SafetensorsFile(path)
    shutil.copy(path, tmp_path / "y")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="truncated while a was read"):
        file.read("a")
