"""How long a run is: epochs, max_steps, and streams that end when they end. An epoch of the tiny rows has 12 steps."""

import pytest
import torch
from tiny_run import COSINE

from torchtune.training import get_cosine_schedule_with_warmup

STREAM = ["dataset.streaming=True", "gradient_accumulation_steps=2"]


def saved(tiny, out: str) -> list[str]:
    return sorted(path.name for path in (tiny.root / out).glob("[es]*_*[0-9]"))


def test_max_steps_ends_a_run_within_an_epoch_which_more_steps_go_on_with(tiny):
    schedule = [COSINE, "lr_scheduler.num_warmup_steps=3"]
    assert tiny.run("fifteen", "max_steps=15", *schedule).code == 0
    assert saved(tiny, "fifteen") == ["epoch_0", "step_15"]
    assert tiny.state("fifteen")["status"] == "completed"
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    expected = get_cosine_schedule_with_warmup(optimizer, 3, 15)
    for _ in range(15):
        optimizer.step()
        expected.step()
    assert tiny.metrics("fifteen", "lr")[15] == pytest.approx(expected.get_last_lr()[0], abs=1e-9)
    assert "Already complete" in tiny.run("fifteen", "max_steps=15", *schedule, "resume_from_checkpoint=True").err


def test_more_steps_of_a_finished_run(tiny):
    assert tiny.run("epochs", "epochs=2").code == 0
    assert tiny.run("longer", "max_steps=7").code == 0
    assert saved(tiny, "longer") == ["step_7"]
    assert tiny.run("longer", "max_steps=24", "resume_from_checkpoint=True").code == 0
    assert tiny.metrics("longer") == tiny.metrics("epochs")
    assert saved(tiny, "longer") == ["epoch_0", "epoch_1", "step_7"]
    assert tiny.sha("longer", "epoch_1") == tiny.sha("epochs", "epoch_1")


def test_a_save_and_the_end_of_the_run_at_one_step(tiny):
    ended = tiny.run("once", "max_steps=4", "save_every_n_steps=2")
    assert ended.code == 0 and ended.err.count("Checkpoint ") == 2
    assert saved(tiny, "once") == ["step_2", "step_4"]


def test_a_stream_that_ends_before_its_epoch_says_so(tiny):
    ended = tiny.run("short", *STREAM, "max_steps_per_epoch=20", "epochs=2")
    assert ended.code == 0, ended.err
    assert "Epoch 1 ends after 12 steps, as its stream does." in ended.err
    assert list(tiny.metrics("short")) == list(range(1, 25))
    assert saved(tiny, "short") == ["epoch_0", "epoch_1"]


def test_a_stream_goes_through_its_data_until_max_steps(tiny):
    assert tiny.run("around", *STREAM, "max_steps=14", "epochs=1").code == 0
    assert list(tiny.metrics("around")) == list(range(1, 15))
    assert saved(tiny, "around") == ["epoch_0", "step_14"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*STREAM], "set max_steps, the optimizer steps of the run, or max_steps_per_epoch"),
        ([*STREAM, "max_steps=2", "num_workers=2"], "num_workers is 2; a stream is read by one process"),
        ([*STREAM, "max_steps=2", "group_by_length=True"], "the lengths in a stream are not known before"),
        (["dataset.packed=True", "group_by_length=True"], "packs have one length"),
    ],
)
def test_settings_that_do_not_go_with_the_data(tiny, words, message):
    ended = tiny.run("refused", *words)
    assert ended.code == 2 and message in ended.err, ended.err
