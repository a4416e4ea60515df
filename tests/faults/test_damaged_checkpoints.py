"""A newest checkpoint that is torn or has changed is passed over, with the reason, for the one before it."""

import logging
import shutil
from pathlib import Path

import pytest
import torch

from torchtune.training.distributed import World
from torchtune.training.run_folder import RunFolder

WORDS = ["max_steps_per_epoch=4", "save_every_n_steps=2", "resume_from_checkpoint=True", "optimizer.lr=1e-2"]
WEIGHTS = "epoch_0/model-00001-of-00001.safetensors"
OPTIMIZER = "recipe_state/epoch_0/optimizer-00000-of-00001.safetensors"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def zero_tail(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


DAMAGES = {
    "a bit of the weights": (flip, WEIGHTS, "sha256 differs"),
    "the end of the weights": (cut, WEIGHTS, "bytes"),
    "zeros at the end of the weights": (zero_tail, WEIGHTS, "sha256 differs"),
    "no config": (Path.unlink, "epoch_0/config.json", "config.json is missing"),
    "no manifest": (Path.unlink, "epoch_0/MANIFEST.json", "has no MANIFEST.json"),
    "half a manifest": (zero_tail, "epoch_0/MANIFEST.json", "MANIFEST.json is damaged"),
    "a bit of the optimizer": (flip, OPTIMIZER, "its run state"),
    "no state": (shutil.rmtree, "recipe_state/epoch_0", "its run state"),
    "the state of another save": (None, "", "is of another save"),
}


@pytest.fixture(scope="module")
def whole(tiny) -> Path:
    """A run of one epoch, step_2 and epoch_0; and, as ``two-epochs``, what two epochs come to."""
    assert tiny.run("one-epoch", *WORDS).code == 0
    assert tiny.run("two-epochs", *WORDS, "epochs=2").code == 0
    return tiny.root / "one-epoch"


def damaged(tiny, whole: Path, name: str) -> Path:
    damage, path, _ = DAMAGES[name]
    out = tiny.root / f"damaged-{name}"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns(".lock"), dirs_exist_ok=True)
    if damage is None:
        shutil.rmtree(out / "recipe_state" / "epoch_0")
        shutil.copytree(tiny.root / "two-epochs" / "recipe_state" / "epoch_1", out / "recipe_state" / "epoch_0")
    else:
        damage(out / path)
    return out


@pytest.mark.parametrize("name", DAMAGES)
def test_the_one_before_is_taken(tiny, whole, name, caplog):
    folder = RunFolder(damaged(tiny, whole, name), World(0, 1, torch.device("cpu")))
    with caplog.at_level(logging.INFO):
        point = folder.resume_point()
    folder.close()
    assert point.path.name == "step_2" and point.facts["step"] == 2
    [told] = [message for message in caplog.messages if "Passing over" in message]
    assert "epoch_0" in told and DAMAGES[name][2] in told


@pytest.mark.parametrize("name", ["zeros at the end of the weights", "no state"])
def test_the_run_goes_on_from_it(tiny, whole, name):
    out = damaged(tiny, whole, name).name
    ended = tiny.run(out, *WORDS, "epochs=2")
    assert ended.code == 0, ended.err
    assert DAMAGES[name][2] in ended.err and "Going on after step 2" in ended.err
    assert tiny.sha(out, "epoch_1") == tiny.sha("two-epochs", "epoch_1")


def test_starts_afresh_when_none_is_good(tiny, whole):
    shutil.copytree(whole, tiny.root / "none-good", ignore=shutil.ignore_patterns(".lock"))
    for folder in ("epoch_0", "step_2"):
        flip(tiny.root / "none-good" / folder / "model-00001-of-00001.safetensors")
    ended = tiny.run("none-good", *WORDS, "epochs=2")
    assert ended.code == 0 and "starting afresh" in ended.err
    assert tiny.sha("none-good", "epoch_1") == tiny.sha("two-epochs", "epoch_1")


def test_leftovers_of_a_killed_save_are_swept(tiny, whole):
    out = tiny.root / "leftovers"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns(".lock"))
    for name in (".tmp-step_6", ".trash-step_0", "recipe_state/.tmp-step_6"):
        (out / name).mkdir()
        (out / name / "part").write_text("x")
    assert tiny.run("leftovers", *WORDS, "epochs=2").code == 0
    assert not [p for p in out.rglob(".*") if p.name.startswith((".tmp", ".trash", ".old"))]
    assert tiny.sha("leftovers", "epoch_1") == tiny.sha("two-epochs", "epoch_1")
