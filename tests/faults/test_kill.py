"""A run that is killed, at any moment and however often, ends in the same bits as one that is not."""

import json
import os
import random
import signal
import time

import pytest
from tiny_run import COSINE, wait_for

WORDS = [
    "epochs=2", "save_every_n_steps=2", "model.attn_dropout=0.1", "resume_from_checkpoint=True", COSINE,
    "lr_scheduler.num_warmup_steps=5", "keep_last_n_checkpoints=3",
]  # fmt: skip


def assert_same_end(tiny, straight: str, killed: str, last: str = "epoch_1") -> None:
    assert tiny.sha(killed, last) == tiny.sha(straight, last)
    assert tiny.metrics(killed) == tiny.metrics(straight)
    assert tiny.state(killed)["status"] == "completed"
    assert not [p.name for p in (tiny.root / killed).iterdir() if p.name.startswith((".tmp", ".trash", ".old"))]


def steps_logged(tiny, out: str) -> int:
    path = tiny.root / out / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.is_file() else 0


def wait_for_moment(tiny, out: str, draw: random.Random, running) -> None:
    """A moment in start-up, or some steps on and then within a step or a save."""
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 1.5))
        return
    wanted = steps_logged(tiny, out) + draw.randint(1, 4)
    in_save = draw.random() < 0.5
    wanted += wanted % 2 if in_save else 0  # after an even step comes a save
    while steps_logged(tiny, out) < wanted and running():
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.02 if in_save else 0.06))


def test_killed_again_and_again(tiny):
    """Forked processes, so that no kill is spent on importing torch."""
    assert tiny.run("kill-straight", *WORDS).code == 0
    draw = random.Random(1)
    for _ in range(5):
        children = tiny.start("kill-fork", *WORDS)
        wait_for_moment(tiny, "kill-fork", draw, lambda pid=children[0].pid: os.path.exists(f"/proc/{pid}/fd/0"))
        os.kill(children[0].pid, signal.SIGKILL)
        ended = wait_for(children)
        assert ended.code in (0, -signal.SIGKILL), ended.err
    ended = tiny.run("kill-fork", *WORDS)
    assert ended.code == 0, ended.err
    assert_same_end(tiny, "kill-straight", "kill-fork")


@pytest.mark.slow
def test_killed_through_the_cli(tiny):
    words = [*WORDS[1:], "epochs=4"]
    assert tiny.cli("cli-straight", *words).code == 0
    draw, codes = random.Random(2), []
    for _ in range(10):
        process = tiny.popen("cli-killed", *words)
        wait_for_moment(tiny, "cli-killed", draw, lambda p=process: p.poll() is None)
        process.kill()
        codes.append(process.wait())
    assert codes.count(-signal.SIGKILL) >= 8 and set(codes) <= {0, -signal.SIGKILL}, codes
    ended = tiny.cli("cli-killed", *words)
    assert ended.code == 0, ended.err
    assert_same_end(tiny, "cli-straight", "cli-killed", "epoch_3")


@pytest.mark.slow
def test_launcher_and_both_workers_killed(tiny):
    words = [*WORDS, "batch_size=1"]
    assert tiny.cli("two-straight", *words, processes=2).code == 0
    draw = random.Random(3)
    for _ in range(4):
        process = tiny.popen("two-killed", *words, processes=2)
        wait_for_moment(tiny, "two-killed", draw, lambda p=process: p.poll() is None)
        for pid in [process.pid, *tiny.descendants(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    ended = tiny.cli("two-killed", *words, processes=2)
    assert ended.code == 0, ended.err
    assert_same_end(tiny, "two-straight", "two-killed")


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_saves_and_ends(tiny, number, code, processes):
    words, out = ["epochs=2", f"batch_size={2 // processes}"], f"signal-{number}-{processes}"
    straight = f"signal-straight-{processes}"
    if not (tiny.root / straight).exists():
        assert tiny.run(straight, *words, processes=processes).code == 0
    process = tiny.popen(out, *words, processes=processes)
    tiny.wait_for_step(out, 3)
    process.send_signal(number)
    assert process.wait(60) == code, (tiny.root / f"{out}.err").read_text()
    said = (tiny.root / f"{out}.err").read_text()
    assert "Stopped by" in said and "Traceback (most recent call last)" not in said
    assert tiny.state(out)["status"] == "interrupted"
    ended = tiny.run(out, *words, "resume_from_checkpoint=True", processes=processes)
    assert ended.code == 0, ended.err
    assert tiny.metrics(out) == tiny.metrics(straight)
    assert tiny.sha(out, "epoch_1") == tiny.sha(straight, "epoch_1")
    assert json.loads((tiny.root / out / "run_state.json").read_text())["status"] == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_to_every_process_saves_and_ends(tiny, processes):
    """As a scheduler sends it: to the launcher, to what it started, and to those that prepare batches."""
    words, out = ["epochs=2", "num_workers=1", f"batch_size={2 // processes}"], f"signal-all-{processes}"
    process = tiny.popen(out, *words, processes=processes)
    tiny.wait_for_step(out, 3)
    everyone = [process.pid, *tiny.descendants(process.pid)]
    assert len(everyone) == {1: 2, 2: 5}[processes]
    for pid in everyone:
        os.kill(pid, signal.SIGTERM)
    assert process.wait(60) == 143, (tiny.root / f"{out}.err").read_text()
    assert tiny.state(out)["status"] == "interrupted"
