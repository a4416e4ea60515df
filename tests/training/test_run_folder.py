"""A run's output folder in one process: its notes, its checkpoints, and what goes back into an optimizer."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from torchtune.errors import CheckpointError, ConfigError, NonFiniteError
from torchtune.training.contents import Contents
from torchtune.training.distributed import World
from torchtune.training.optim import InBackward
from torchtune.training.run_folder import RunFolder, saved_facts

ALONE = World(0, 1, torch.device("cpu"))


def contents(model: nn.Module) -> Contents:
    def write(folder: Path) -> dict:
        torch.save(model.state_dict(), folder / "weights.pt")
        return {}

    return Contents(write, 0)


@pytest.fixture
def folder(tmp_path):
    opened = RunFolder(tmp_path, ALONE)
    yield opened
    opened.close()


def test_a_checkpoint_is_no_folder_for_a_run(folder):
    path = folder.path / "epoch_0"
    path.mkdir()
    (path / "MANIFEST.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"{path} is a checkpoint; set output_dir={folder.path} to go on"):
        RunFolder(path, ALONE)


def trained(steps: int, make=lambda params: torch.optim.AdamW(params, lr=0.1, betas=(0.8, 0.9))):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = make(list(model.parameters()))
    for _ in range(steps):
        model(torch.ones(3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder: RunFolder, name: str, step: int, model, optimizer, val_loss=None, **more) -> Path:
    facts = saved_facts(optimizer, step=step, epoch=0, epochs=1, seed=5, max_steps_per_epoch=None, val_loss=val_loss)
    return folder.save(name, contents(model), model, optimizer, facts, **more)


def test_notes(folder):
    assert folder.status() == {}
    folder.begin(None)
    assert folder.status() == {"run": 1, "status": "running"}
    save(folder, "step_2", 2, *trained(2))
    folder.note("interrupted")
    assert folder.status() == {"run": 1, "status": "interrupted", "last_checkpoint": "step_2", "step": 2}
    folder.begin(folder.resume_point())
    assert folder.status()["status"] == "running" and folder.run == 1


def test_one_run_at_a_time(folder, tmp_path):
    pid = os.fork()  # a lock is a process's, so another one is needed to meet it
    if pid == 0:
        try:
            RunFolder(tmp_path, ALONE)
        except CheckpointError as error:
            os._exit(10 if f"in use by process {os.getppid()}" in str(error) else 11)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10


@pytest.mark.parametrize("make", [
    lambda params: torch.optim.AdamW(params, lr=0.1, betas=(0.8, 0.9)),
    lambda params: torch.optim.AdamW(params, lr=0.1, fused=True, amsgrad=True),
    lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    lambda params: torch.optim.SGD(params, lr=0.1),
    lambda params: torch.optim.Adafactor(params, lr=0.1),
    lambda params: InBackward(lambda some: torch.optim.AdamW(some, lr=0.1), params),
])  # fmt: skip
def test_an_optimizer_goes_on_where_it_was(folder, make):
    model, optimizer = trained(3, make)
    folder.begin(None)
    path = save(folder, "step_3", 3, model, optimizer)
    draw = torch.rand(2)  # after the save
    again, fresh = trained(0, make)
    again.load_state_dict(torch.load(path / "weights.pt"))
    folder.load_state(folder.resume_point(), again, fresh)
    assert torch.equal(torch.rand(2), draw)
    for some, opt in ((model, optimizer), (again, fresh)):
        some(torch.ones(3)).sum().backward()
        opt.step()
    assert torch.equal(model.weight, again.weight) and torch.equal(model.bias, again.bias)


@pytest.mark.parametrize("name", ["AdamW8bit", "Adam4bit", "AdamWFp8"])
@pytest.mark.parametrize("in_backward", [False, True])
def test_an_optimizer_of_torchao_goes_on_where_it_was(folder, monkeypatch, name, in_backward):
    import torchao.optim

    monkeypatch.setattr(torch, "compile", lambda function, **options: function)

    def begin():
        torch.manual_seed(0)
        model = nn.Linear(64, 64)  # as many weights as it takes to be quantised; the bias is not
        params = list(model.parameters())
        make = lambda some: getattr(torchao.optim, name)(some, lr=0.1)  # noqa: E731
        return model, InBackward(make, params) if in_backward else make(params)

    def step(model, optimizer, scale):
        model(torch.linspace(-scale, scale, 64)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    (model, optimizer), (again, fresh) = begin(), begin()
    step(model, optimizer, 1.0)
    folder.begin(None)
    path = save(folder, "step_1", 1, model, optimizer)
    again.load_state_dict(torch.load(path / "weights.pt"))
    folder.load_state(folder.resume_point(), again, fresh)
    for scale in (2.0, 0.5):
        step(model, optimizer, scale)
        step(again, fresh, scale)
    assert torch.equal(model.weight, again.weight) and torch.equal(model.bias, again.bias)
    other = torch.optim.AdamW(model.parameters())
    with pytest.raises(ConfigError, match="keeps exp_avg in few bits, and this run's, AdamW, does not"):
        folder.load_state(folder.resume_point(), model, other)


def test_an_optimizer_of_other_groups_is_refused(folder):
    model, optimizer = trained(1)
    folder.begin(None)
    save(folder, "step_1", 1, model, optimizer)
    groups = [{"params": [model.weight]}, {"params": [model.bias]}]
    with pytest.raises(ConfigError, match="has 1 parameter groups, this run's has 2"):
        folder.load_state(folder.resume_point(), model, torch.optim.AdamW(groups))


def test_changed_settings_are_said_and_the_saved_ones_hold(folder, caplog):
    model, optimizer = trained(1)
    folder.begin(None)
    save(folder, "step_1", 1, model, optimizer)
    other = torch.optim.AdamW(model.parameters(), lr=0.3, betas=(0.8, 0.9), weight_decay=0.5)
    folder.load_state(folder.resume_point(), model, other)
    told = [m for m in caplog.messages if m.startswith("optimizer.")]
    assert len(told) == 2 and told[0].startswith("optimizer.lr is 0.3") and "optimizer.weight_decay is 0.5" in told[1]
    assert other.param_groups[0]["lr"] == 0.1 and other.param_groups[0]["betas"] == (0.8, 0.9)


def test_another_model_is_refused(folder):
    model, optimizer = trained(1)
    folder.begin(None)
    save(folder, "step_1", 1, model, optimizer)
    other = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match="other parameters"):
        folder.load_state(folder.resume_point(), other, torch.optim.AdamW(other.parameters()))


def test_the_state_names_what_it_belongs_to(folder, tmp_path):
    folder.begin(None)
    save(folder, "step_1", 1, *trained(1))
    save(folder, "step_2", 2, *trained(2))
    weights = json.loads((tmp_path / "step_2" / "MANIFEST.json").read_text())
    assert weights["facts"].keys() == {"step", "run", "state"}
    (tmp_path / "recipe_state" / "step_2").rename(tmp_path / "aside")
    save(folder, "step_2", 2, *trained(3))
    (tmp_path / "step_2" / "MANIFEST.json").write_text(json.dumps(weights))  # as if killed before the weights
    assert folder.resume_point().path.name == "step_1"


def test_a_new_run_does_not_go_on_from_an_old_one(folder, caplog):
    folder.begin(None)
    save(folder, "epoch_0", 9, *trained(1))
    folder.begin(None)
    assert "holds checkpoints from an earlier run (epoch_0)" in caplog.text
    assert folder.run == 2 and folder.resume_point() is None
    assert "an earlier run in this folder wrote it" in caplog.text
    save(folder, "step_1", 1, *trained(1))
    assert folder.resume_point().path.name == "step_1"


def test_an_old_runs_checkpoints_are_the_first_to_go(tmp_path):
    folder = RunFolder(tmp_path, ALONE, keep_last_n=2)
    folder.begin(None)
    for step in (8, 9):
        save(folder, f"step_{step}", step, *trained(1))
    folder.begin(None)
    for step in (1, 2):
        save(folder, f"step_{step}", step, *trained(1))
    assert {p.name for p in tmp_path.glob("step_*")} == {"step_1", "step_2"}
    assert folder.resume_point().path.name == "step_2"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(folder, tmp_path, bad):
    model, optimizer = trained(1)
    folder.begin(None)
    save(folder, "step_1", 1, model, optimizer)
    with torch.no_grad():
        model.bias[1] = bad
    with pytest.raises(NonFiniteError, match="step_2 is not saved: .* among them bias"):
        save(folder, "step_2", 2, model, optimizer)
    assert folder.resume_point().path.name == "step_1"
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["recipe_state", "step_1"]


def test_torchtunes_file_is_there_too(folder, tmp_path):
    folder.begin(None)
    save(folder, "epoch_0", 4, *trained(1))
    found = torch.load(tmp_path / "recipe_state" / "recipe_state.pt", weights_only=True)
    assert found == {"seed": 5, "epochs_run": 0, "total_epochs": 1, "steps_run": 4, "max_steps_per_epoch": None}


def test_the_best_checkpoint_is_named_and_kept(tmp_path):
    folder = RunFolder(tmp_path, ALONE, keep_last_n=1)
    folder.begin(None)
    for step, val_loss in ((1, 2.0), (2, 1.5), (3, 1.7), (4, None)):
        save(folder, f"step_{step}", step, *trained(1), val_loss=val_loss)
    state = folder.status()
    assert (state["best_checkpoint"], state["best_val_loss"]) == ("step_2", 1.5)
    assert state["last_checkpoint"] == "step_4"
    assert {p.name for p in tmp_path.glob("step_*")} == {"step_2", "step_4"}
