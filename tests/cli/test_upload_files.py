"""Which files are chosen, and which folders are refused."""

import json
import shutil

import pytest
import torch
from published import make_run, write_adapter
from safetensors.torch import save_file

from torchtune.cli._upload_files import check, select
from torchtune.errors import CheckpointError, ConfigError

FAKE_TOKEN = "hf_" + "a" * 30


@pytest.fixture
def epoch(tmp_path):
    return make_run(tmp_path / "run")


def test_the_model_is_taken_and_what_lies_beside_it_is_not(epoch):
    beside = ["MANIFEST.json", "metrics.jsonl", "run_state.json", "torchtune_config.yaml", "log_123.txt", "x.log"]
    beside += ["results_2026-01-01T00-00-00.json", "samples_arc_easy_2026.jsonl", "optimizer.pt", "training_args.bin"]
    beside += [
        ".env",
        ".cache/huggingface/token",
        "recipe_state/recipe_state.pt",
        "logs/log.txt",
        "epoch_1/config.json",
    ]
    for name in [*beside, "assets/plot.svg"]:
        (epoch / name).parent.mkdir(parents=True, exist_ok=True)
        (epoch / name).touch()
    selection = select(epoch)
    assert selection.kind == "model"
    assert sorted(selection.files) == [
        "LICENSE.txt", "README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
        "assets/plot.svg", "config.json", "generation_config.json", "model.safetensors", "original_repo_id.json",
        "tokenizer.json",
    ]  # fmt: skip
    left = {name.rstrip("/") for name in selection.left_out}
    assert left == {name.partition("/")[0] for name in beside} | {"adapter_model.pt"}


def test_the_second_form_of_the_adapter_comes_when_asked_for_or_alone(epoch):
    assert "adapter_model.pt" in select(epoch, adapter_pt=True).files
    shutil.rmtree(epoch / "adapter")
    assert "adapter_model.pt" in select(epoch).files


def test_patterns_leave_files_out(epoch):
    (epoch / "original").mkdir()
    (epoch / "original" / "params.json").write_text("{}")
    names = select(epoch, ["*.txt", "original/"]).files
    assert "config.json" in names and not {"LICENSE.txt", "original/params.json"} & names.keys()


def test_an_adapter_beside_weights_moves_into_a_folder(tmp_path):
    """transformers 5 would apply it to weights that contain it."""
    epoch = make_run(tmp_path / "run", adapter=False)
    write_adapter(epoch)
    names = select(epoch).files
    assert {name for name in names if "adapter" in name} == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"], "adapter"),
        (["model-q8_0.gguf", "Modelfile"], "gguf"),
        (["consolidated.00.pth", "params.json"], "weights"),
        (["config.json", "pytorch_model.bin"], "model"),
    ],
)
def test_kinds_of_folders(tmp_path, names, kind):
    for name in names:
        (tmp_path / name).touch()
    assert select(tmp_path).kind == kind


def test_folders_without_a_model_are_refused(tmp_path, epoch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for path, said in (("empty", "holds no model"), ("file", "is a file"), ("absent", "is not there")):
        with pytest.raises(ConfigError, match=said):
            select(tmp_path / path)
    with pytest.raises(ConfigError, match="Its checkpoints are epoch_0: name one of them"):
        select(epoch.parent)


def test_a_whole_checkpoint_passes_and_edited_texts_are_named(epoch):
    assert check(epoch, select(epoch)) == ()
    (epoch / "generation_config.json").write_text("{}")
    assert check(epoch, select(epoch)) == ("generation_config.json",)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("model.safetensors", _cut, "model.safetensors is not as it was written"),
        ("model.safetensors", _flip, "model.safetensors is not as it was written"),
        ("adapter/adapter_model.safetensors", _flip, "is not as it was written"),
        ("config.json", lambda path: path.unlink(), "config.json is missing since"),
        ("MANIFEST.json", lambda path: path.write_text('{"version": 1}'), "MANIFEST.json is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused(epoch, name, harm, said):
    selection = select(epoch)
    harm(epoch / name)
    with pytest.raises(CheckpointError, match=said):
        check(epoch, selection)


def test_the_adapter_may_be_gone(epoch):
    (epoch / "adapter_model.pt").unlink()
    (epoch / "adapter" / "adapter_model.safetensors").unlink()
    assert check(epoch, select(epoch)) == ("adapter/adapter_model.safetensors", "adapter_model.pt")


def test_leftovers_of_an_interrupted_save_are_refused(epoch):
    hidden = epoch.rename(epoch.with_name(".tmp-epoch_0"))
    with pytest.raises(CheckpointError, match="interrupted save"):
        check(hidden, select(hidden))


def test_folders_of_others_are_looked_at(epoch):
    (epoch / "MANIFEST.json").unlink()
    assert check(epoch, select(epoch)) == ()
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (epoch / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="lacks model-00002-of-00002.safetensors"):
        check(epoch, select(epoch))
    (epoch / "model.safetensors.index.json").unlink()
    for content in (b"", b"\xff" * 20, (epoch / "model.safetensors").read_bytes()[:-1]):
        (epoch / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match="cut off or no safetensors"):
            check(epoch, select(epoch))
    save_file({"a": torch.zeros(0), "b": torch.zeros(3)}, epoch / "model.safetensors", metadata={"format": "pt"})
    assert check(epoch, select(epoch)) == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.md", f"use {FAKE_TOKEN}"),
        ("tokenizer_config.json", json.dumps({"use_auth_token": FAKE_TOKEN})),
        ("my_config.yaml", "metric_logger:\n  api_key: abc\n"),
        ("my_config.yml", f"a: [{FAKE_TOKEN}"),  # not even YAML
    ],
)
def test_a_secret_is_never_uploaded(epoch, name, text):
    (epoch / name).write_text(text)
    with pytest.raises(ConfigError, match=f"{name} holds what looks like a credential") as error:
        check(epoch, select(epoch))
    assert FAKE_TOKEN not in str(error.value)
    assert check(epoch, select(epoch, [name])) in ((), (name,))


def test_versions_and_words_are_no_secrets(epoch):
    (epoch / "generation_config.json").write_text(json.dumps({"_commit_hash": "0123456789" * 4}))
    (epoch / "plain.yaml").write_text("epochs: 1\npad_token: <pad>\n")
    (epoch / "notes.md").write_text("see task-specific-instruction-tuning and disk-0123456789abcdef\n")
    assert check(epoch, select(epoch)) == ("generation_config.json",)
