"""A run that was stopped and gone on with ends in the same bits as one that was not."""

import os
import signal

import pytest
import torch
from tiny_run import COSINE, wait_for

SETTINGS = {
    "bf16": (1, ["dtype=bf16", COSINE, "lr_scheduler.num_warmup_steps=3", "clip_grad_norm=1",
                 "enable_activation_checkpointing=True"]),
    "in backward": (1, ["optimizer_in_bwd=True", "gradient_accumulation_steps=1", "batch_size=4", "dataset.packed=True",
                        COSINE, "lr_scheduler.num_warmup_steps=3"]),
    "two processes": (2, ["batch_size=1", "num_workers=1", COSINE, "lr_scheduler.num_warmup_steps=3"]),
}  # fmt: skip
ALWAYS = ["epochs=2", "model.attn_dropout=0.2", "save_every_n_steps=5"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "two processes" else ()) for name in SETTINGS]
)
def test_a_stopped_run_goes_on_to_the_same_bits(tiny, name):
    processes, words = SETTINGS[name]
    straight, stopped, words = f"straight-{name}", f"stopped-{name}", [*ALWAYS, *words]
    assert tiny.run(straight, *words, processes=processes).code == 0
    children = tiny.start(stopped, *words, processes=processes)
    tiny.wait_for_step(stopped, 7)
    os.kill(children[-1].pid, signal.SIGTERM)  # the others learn it from this one
    ended = wait_for(children)
    assert ended.codes == [143] * processes, ended.err
    at = tiny.state(stopped)
    assert at["status"] == "interrupted" and at["step"] < 24 and at["last_checkpoint"] == f"step_{at['step']}"
    ended = tiny.run(stopped, *words, "resume_from_checkpoint=True", processes=processes)
    assert ended.code == 0, ended.err
    assert f"Going on after step {at['step']}" in ended.err
    assert tiny.metrics(stopped) == tiny.metrics(straight)
    assert tiny.sha(stopped, "epoch_1") == tiny.sha(straight, "epoch_1")
    assert tiny.state(stopped)["status"] == "completed"


STOPPER = """
import os, signal
from torchtune.training.metric_logging import StdoutLogger

class StopAt(StdoutLogger):
    def __init__(self, at: int):
        self.at = at

    def log_dict(self, payload, step):
        if step == self.at:
            os.kill(os.getpid(), signal.SIGINT)
"""


def test_stopped_at_the_end_of_an_epoch_of_the_run_and_at_a_save(tiny):
    """The user's own logger, a file in the current folder, sends the signal."""
    (tiny.root / "stopper.py").write_text(STOPPER)
    words = ["epochs=2", "max_steps_per_epoch=3", "save_every_n_steps=2", "model.attn_dropout=0.1"]
    assert tiny.run("straight-ends", *words).code == 0
    words += ["resume_from_checkpoint=True", "metric_logger._component_=stopper.StopAt"]
    for step in (2, 3, 6):
        ended = tiny.run("ends", *words, f"metric_logger.at={step}")
        assert ended.code == 130 and f"after saving step_{step}" in ended.err, ended.err
    assert tiny.run("ends", *words, "metric_logger.at=99").code == 0
    assert tiny.metrics("ends") == tiny.metrics("straight-ends")
    for folder in ("epoch_0", "epoch_1"):
        assert tiny.sha("ends", folder) == tiny.sha("straight-ends", folder)


def test_stopped_at_the_last_step_where_that_ends_an_epoch_too(tiny):
    (tiny.root / "stopper.py").write_text(STOPPER)
    words = ["max_steps=4", "max_steps_per_epoch=2", "metric_logger._component_=stopper.StopAt"]
    assert tiny.run("straight-last", *words, "metric_logger.at=99").code == 0
    words.append("resume_from_checkpoint=True")
    assert tiny.run("last", *words, "metric_logger.at=4").code == 130
    assert tiny.run("last", *words, "metric_logger.at=99").code == 0
    assert tiny.state("last")["status"] == "completed"
    assert tiny.state("last")["last_checkpoint"] == tiny.state("straight-last")["last_checkpoint"] == "epoch_1"
    assert tiny.sha("last", "epoch_1") == tiny.sha("straight-last", "epoch_1")
    again = tiny.run("last", *words, "metric_logger.at=99")
    assert again.code == 0 and "Already complete" in again.err


def test_going_on_with_another_number_of_processes(tiny):
    words = ["epochs=2", COSINE, "lr_scheduler.num_warmup_steps=3"]
    assert tiny.run("straight-n", *words).code == 0
    assert tiny.stop_after("n", 4, tiny.start("n", *words)).code == 143
    words.append("resume_from_checkpoint=True")
    two = tiny.stop_after("n", 10, tiny.start("n", *words, "batch_size=1", processes=2))
    assert two.codes == [143, 143], two.err
    assert "another number of processes" in two.err
    assert tiny.run("n", *words).code == 0
    straight, changed = tiny.metrics("straight-n"), tiny.metrics("n")
    assert list(changed) == list(range(1, 25))
    torch.testing.assert_close(list(changed.values()), list(straight.values()), rtol=1e-5, atol=0)


def test_a_finished_run_is_left_alone(tiny):
    words = ["max_steps_per_epoch=2", "resume_from_checkpoint=True"]
    first = tiny.run("finished", *words)
    assert first.code == 0 and "no checkpoint to go on from; starting afresh" in first.err
    before = {p: p.stat().st_mtime_ns for p in (tiny.root / "finished").rglob("*") if p.is_file() and p.name != ".lock"}
    again = tiny.run("finished", *words)
    assert again.code == 0 and "Already complete" in again.err
    after = {p: p.stat().st_mtime_ns for p in (tiny.root / "finished").rglob("*") if p.is_file() and p.name != ".lock"}
    assert after == before


def test_more_epochs_of_a_finished_run(tiny):
    words = ["max_steps_per_epoch=2", "resume_from_checkpoint=True"]
    assert tiny.run("more", *words).code == 0
    assert tiny.run("more", *words, "epochs=2").code == 0
    assert list(tiny.metrics("more")) == [1, 2, 3, 4]
    assert (tiny.root / "more" / "epoch_1").is_dir()


def test_a_run_on_other_data_is_not_gone_on_with(tiny):
    assert tiny.run("other", "max_steps_per_epoch=2", "save_every_n_steps=1").code == 0
    words = ["max_steps_per_epoch=2", "epochs=2", "resume_from_checkpoint=True"]
    ended = tiny.run("other", *words, f"dataset.data_files={tiny.root / 'val.jsonl'}")
    assert ended.code == 4 and "num_samples: 48 then, 7 now" in ended.err
    ended = tiny.run("other", *words, "batch_size=3")
    assert ended.code == 4 and "samples_per_step: 4 then, 6 now" in ended.err


def test_a_changed_setting_of_the_optimizer_is_said(tiny):
    words = ["max_steps_per_epoch=1", "resume_from_checkpoint=True"]
    assert tiny.run("changed", *words).code == 0
    ended = tiny.run("changed", *words, "epochs=2", "optimizer.lr=1e-5")
    assert ended.code == 0 and "optimizer.lr" in ended.err
    assert tiny.metrics("changed", "lr")[2] == 2e-3


def test_a_new_run_in_the_folder_of_an_old_one(tiny):
    """The new run's checkpoints count, also while those of the old one have more steps."""
    assert tiny.run("twice", "max_steps_per_epoch=6", "save_every_n_steps=2").code == 0
    ended = tiny.stop_after("twice", 6 + 3, tiny.start("twice", "seed=8", "epochs=2"))
    assert ended.code == 143 and "earlier run" in ended.err
    step = tiny.state("twice")["step"]
    ended = tiny.run("twice", "seed=8", "epochs=2", "resume_from_checkpoint=True")
    assert ended.code == 0 and f"Going on after step {step}" in ended.err
    assert tiny.run("twice-alone", "seed=8", "epochs=2").code == 0
    assert tiny.sha("twice", "epoch_1") == tiny.sha("twice-alone", "epoch_1")
