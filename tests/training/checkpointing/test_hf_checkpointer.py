"""Hugging Face's layout, with transformers as the judge."""

import json
import os
import shutil
import stat

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from torchtune.errors import CheckpointError, ConfigError
from torchtune.training.checkpointing import (
    FormattedCheckpointFiles,
    FullModelHFCheckpointer,
    check_vocabulary,
    checkpointer_for,
    commit_folder,
    is_complete,
)
from torchtune.training.checkpointing.hf import parse_size

TIED = pytest.mark.parametrize("tied", [True, False])


def save(checkpointer, name, state, shapes, **options):
    write = lambda folder: checkpointer.write(folder, state.items(), shapes, **options)  # noqa: E731
    commit_folder(checkpointer.output_dir / name, write)
    return checkpointer.output_dir / name


@TIED
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("shards", ["5GB", "20KB"])
def test_round_trip_opens_in_transformers(llamas, shapes_of, tied, safe, shards):
    base = llamas.folder(tie_word_embeddings=tied, dtype="float32", max_shard_size="15KB")
    ours = FullModelHFCheckpointer(base, output_dir=llamas.root / "out", safe_serialization=safe)
    native = llamas.native(base)
    state = dict(ours.weights(native))
    assert list(sorted(state)) == sorted(native)
    assert ("output.weight" in state) is not tied
    written = save(ours, "epoch_0", state, shapes_of(state), max_shard_size=shards)

    before = llamas.theirs(tie_word_embeddings=tied)
    after, info = transformers.LlamaForCausalLM.from_pretrained(written, output_loading_info=True, use_safetensors=safe)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    tokens = torch.arange(20).view(2, 10)
    assert torch.equal(before(tokens).logits, after(tokens).logits)
    again = dict(FullModelHFCheckpointer(written).weights(native))
    assert all(torch.equal(again[k], state[k]) for k in state)
    suffix = "safetensors" if safe else "bin"
    parts = sorted(p.name for p in written.glob(f"*.{suffix}"))
    assert parts[0].endswith(f"-00001-of-{len(parts):05}.{suffix}") and (len(parts) > 1) is (shards == "20KB")
    assert (written / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_bytes_of_a_file_survive_a_round_trip(llamas, shapes_of):
    base = llamas.folder(dtype="bfloat16")
    ours = FullModelHFCheckpointer(base, output_dir=llamas.root / "out")
    state = dict(ours.weights(llamas.native(base)))
    written = save(ours, "epoch_0", state, shapes_of(state))
    theirs, mine = load_file(base / "model.safetensors"), load_file(written / "model-00001-of-00001.safetensors")
    assert theirs.keys() == mine.keys()
    assert all(torch.equal(theirs[k].view(torch.uint8), mine[k].view(torch.uint8)) for k in theirs)


def test_rows_follow_metas_channel_order(llamas):
    base = llamas.folder()
    theirs = load_file(base / "model.safetensors")["model.layers.1.self_attn.q_proj.weight"]
    mine = dict(FullModelHFCheckpointer(base).weights(llamas.native(base)))["layers.1.attn.q_proj.weight"]
    for head in range(4):
        for pair in range(4):
            assert torch.equal(mine[head * 8 + 2 * pair], theirs[head * 8 + pair])
            assert torch.equal(mine[head * 8 + 2 * pair + 1], theirs[head * 8 + pair + 4])


def test_layout_of_a_written_folder(llamas, shapes_of):
    base = llamas.folder()
    ours = FullModelHFCheckpointer(base, output_dir=base)  # requirement: output may go into the checkpoint's folder
    state = dict(ours.weights(llamas.native(base)))
    save(ours, "epoch_0", state, shapes_of(state))
    written = save(ours, "epoch_1", state, shapes_of(state))
    names = sorted(p.relative_to(written).as_posix() for p in written.rglob("*") if p.is_file())
    assert names == [
        "LICENSE.txt",
        "MANIFEST.json",
        "config.json",
        "generation_config.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "original/params.json",
        "tokenizer.json",
    ]
    index = json.loads((written / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in state.values())
    assert set(index["weight_map"].values()) == {"model-00001-of-00001.safetensors"}
    umask = os.umask(0)
    os.umask(umask)
    mode = stat.S_IMODE((written / "model-00001-of-00001.safetensors").stat().st_mode)
    assert mode == 0o666 & ~umask
    assert is_complete(written)


def test_config_follows_the_weights(llamas, shapes_of):
    base = llamas.folder(tie_word_embeddings=True, dtype="float32")
    ours = FullModelHFCheckpointer(base, output_dir=llamas.root / "out")
    native = llamas.native(base) | {"output.weight": torch.empty(50, 32, device="meta")}
    state = dict(ours.weights(native))
    assert torch.equal(state["output.weight"], state["tok_embeddings.weight"])  # the files say tied, the model is not
    state["output.weight"] = state["output.weight"] + 1
    wide = {k: (s, torch.bfloat16) for k, (s, _) in shapes_of(state).items()}
    written = save(ours, "epoch_0", state, wide)
    old, new = (json.loads((d / "config.json").read_text()) for d in (base, written))
    assert new == old | {"dtype": "bfloat16", "tie_word_embeddings": False}
    assert list(new) == list(old)
    model = transformers.LlamaForCausalLM.from_pretrained(written)
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.lm_head.weight, state["output.weight"].bfloat16())


def test_tied_file_with_a_copied_head_is_read_without_it(llamas):
    base = llamas.folder(tie_word_embeddings=True)
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, base / "model.safetensors")
    assert "output.weight" not in dict(FullModelHFCheckpointer(base).weights(llamas.native(base)))


def test_untied_file_does_not_fit_a_tied_model(llamas):
    base = llamas.folder(tie_word_embeddings=False)
    native = {k: v for k, v in llamas.native(base).items() if k != "output.weight"}
    with pytest.raises(CheckpointError, match="not in the model:\n  model.safetensors: lm_head.weight"):
        FullModelHFCheckpointer(base).weights(native)


def test_bin_files_are_read(llamas):
    base = llamas.folder()
    expected = dict(FullModelHFCheckpointer(base).weights(llamas.native(base)))
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    found = dict(FullModelHFCheckpointer(base).weights(llamas.native(base)))
    assert all(torch.equal(found[k], expected[k]) for k in expected) and len(found) == len(expected)


def test_every_way_to_name_the_files(llamas):
    base = llamas.folder(max_shard_size="15KB")
    names = sorted(p.name for p in base.glob("*.safetensors"))
    count = f"{len(names):05}"
    assert len(names) > 1
    (base / "model.safetensors.index.json").unlink()
    formatted = {"filename_format": "model-{}-of-{}.safetensors", "max_filename": count}
    for files in (None, names, formatted):
        checkpointer = FullModelHFCheckpointer(base, files, model_type="LLAMA3_2")
        assert len(dict(checkpointer.weights(llamas.native(base)))) == len(llamas.native(base))
    assert FormattedCheckpointFiles.from_dict(formatted).build_checkpoint_filenames() == names
    with pytest.raises(CheckpointError, match="missing from the files"):
        FullModelHFCheckpointer(base, names[0]).weights(llamas.native(base))
    with pytest.raises(ConfigError, match="two {}"):
        FormattedCheckpointFiles("model.safetensors", "3")
    shutil.copy(base / names[0], base / "other.safetensors")
    with pytest.raises(CheckpointError, match="is in both"):
        FullModelHFCheckpointer(base, [*names, "other.safetensors"]).weights(llamas.native(base))


def test_a_missing_shard_is_named(llamas):
    base = llamas.folder(max_shard_size="15KB")
    gone = sorted(base.glob("*.safetensors"))[1]
    gone.unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError, match=gone.name):
            FullModelHFCheckpointer(base).weights({})
        (base / "model.safetensors.index.json").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="Leave checkpoint_files out"):
        FullModelHFCheckpointer(base, ["pytorch_model.bin"]).weights({})


@pytest.mark.parametrize(
    "name", ["../secret/x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", "..safetensors"]
)
def test_an_index_cannot_point_elsewhere(llamas, name):
    base = llamas.folder()
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(CheckpointError, match="only plain names"):
        FullModelHFCheckpointer(base).weights({})


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd"])
def test_checkpoint_files_stay_inside(llamas, name):
    with pytest.raises(CheckpointError, match="inside checkpoint_dir"):
        FullModelHFCheckpointer(llamas.folder(), [name]).weights({})


def test_links_into_a_cache_are_followed(llamas):
    base = llamas.folder()
    snapshot = llamas.root / "snapshot"
    snapshot.mkdir()
    for path in base.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert len(dict(FullModelHFCheckpointer(snapshot).weights(llamas.native(base)))) == len(llamas.native(base))


def test_faults_are_listed_together_before_any_tensor(llamas):
    base = llamas.folder(tie_word_embeddings=False)
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mlp.gatee_proj.weight"] = tensors.pop("model.layers.0.mlp.gate_proj.weight")
    tensors["model.norm.weight"] = torch.zeros(31)
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        FullModelHFCheckpointer(base).weights(llamas.native(base))
    text = str(caught.value)
    assert "1 tensor(s) missing from the files:\n  layers.0.mlp.w1.weight\n" in text
    assert "model.safetensors: model.layers.0.mlp.gatee_proj.weight [48, 32]" in text
    assert "nearest known name: model.layers.{}.mlp.gate_proj" in text
    assert "model.safetensors: model.norm.weight is [31]; the model's norm.scale is [32]" in text


def test_another_model_gives_a_short_message(llamas):
    base = llamas.folder()
    with torch.device("meta"):
        native = {k: torch.empty(tuple(2 * n for n in v.shape)) for k, v in llamas.native(base).items()}
    with pytest.raises(CheckpointError) as caught:
        FullModelHFCheckpointer(base).weights(native)
    text = str(caught.value)
    assert "21 tensor(s) of another shape" in text and "... and 11 more" in text
    assert "config.json says model_type llama, hidden_size 32" in text
    assert len(text.splitlines()) <= 15


def test_model_type_must_agree(llamas):
    base = llamas.folder()
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(CheckpointError, match="mamba"):
        FullModelHFCheckpointer(base, model_type="LLAMA3")
    with pytest.raises(ConfigError, match="LAMA9"):
        FullModelHFCheckpointer(llamas.folder("b"), model_type="LAMA9")


def test_a_folder_that_is_no_model(llamas):
    base = llamas.folder()
    (base / "config.json").unlink()
    with pytest.raises(CheckpointError, match="has no config.json, .* It has .*model.safetensors"):
        FullModelHFCheckpointer(base)
    (base / "epoch_1").mkdir()
    with pytest.raises(CheckpointError, match="is the output of a run; name one of its checkpoints, .*epoch_1"):
        FullModelHFCheckpointer(base)


def test_documented_methods(llamas):
    base = llamas.folder(dtype="float32")
    checkpointer = FullModelHFCheckpointer(base, ["model.safetensors"], "LLAMA3_2", str(llamas.root / "out"))
    state = checkpointer.load_checkpoint()["model"]
    assert state.keys() == llamas.native(base).keys()
    rest = {"seed": 3, "epochs_run": 1, "optimizer": {"state": {0: {"step": torch.tensor(4.0)}}}}
    checkpointer.save_checkpoint({"model": state, **rest}, epoch=0, intermediate_checkpoint=True)
    checkpointer.save_checkpoint({"model": state}, epoch=0, step=7, dir_prefix="step")
    out = llamas.root / "out"
    assert is_complete(out / "epoch_0") and is_complete(out / "step_7")
    resumed = FullModelHFCheckpointer(base, ["model.safetensors"], output_dir=str(out), resume_from_checkpoint=True)
    loaded = resumed.load_checkpoint()
    assert all(torch.equal(loaded["model"][k], state[k]) for k in state)
    assert loaded["seed"] == 3 and loaded["optimizer"]["state"][0]["step"] == 4
    with pytest.raises(CheckpointError, match="adapter_only"):
        checkpointer.save_checkpoint({"model": state}, epoch=1, adapter_only=True)


def test_keep_last_n(llamas):
    base = llamas.folder()
    out = llamas.root / "out"
    checkpointer = FullModelHFCheckpointer(base, output_dir=out, keep_last_n_checkpoints=2)
    state = checkpointer.load_checkpoint()["model"]
    for epoch in range(4):
        checkpointer.save_checkpoint({"model": state}, epoch=epoch)
    assert sorted(p.name for p in out.iterdir()) == ["epoch_2", "epoch_3"]


def test_others_only_draw(llamas, shapes_of):
    """Processes that do not write still take part in every gather, also when the writer's disk fails."""
    base = llamas.folder()
    checkpointer = FullModelHFCheckpointer(base)
    state = dict(checkpointer.weights(llamas.native(base)))
    for main, folder in ((False, llamas.root / "nowhere"), (True, llamas.root / "absent" / "folder")):
        drawn = []
        tensors = ((k, drawn.append(k) or v) for k, v in state.items())
        if main:
            with pytest.raises(OSError):
                checkpointer.write(folder, tensors, shapes_of(state), main=True)
        else:
            assert checkpointer.write(folder, tensors, shapes_of(state), main=False) == {}
        assert drawn == list(state) and not folder.exists()


def test_checkpointer_for(llamas):
    base = llamas.folder()
    assert isinstance(checkpointer_for(base), FullModelHFCheckpointer)
    single = checkpointer_for(base / "model.safetensors", llamas.root / "out", model_type="LLAMA3")
    assert len(dict(single.weights(llamas.native(base)))) == len(llamas.native(base))
    (llamas.root / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpointer_for(llamas.root / "empty")
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpointer_for(llamas.root / "gone")


def test_vocabulary():
    check_vocabulary(100, 100)
    with pytest.raises(CheckpointError, match="101 tokens.*100 rows"):
        check_vocabulary(100, 101)


def test_sizes():
    assert [parse_size(s) for s in (7, "5GB", "1.5 MB", "2KiB")] == [7, 5 * 10**9, 1_500_000, 2048]
    with pytest.raises(ConfigError, match="five"):
        parse_size("five")
