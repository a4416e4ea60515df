"""Folders are complete or absent, whatever happens while they are made."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from torchtune.errors import CheckpointError, ConfigError
from torchtune.training.checkpointing import (
    OutputLock,
    checkpoints,
    commit_folder,
    fault,
    is_complete,
    newest_complete,
    prune,
    resume_fault,
    sweep,
)
from torchtune.training.checkpointing import _io as io
from torchtune.training.checkpointing._io import HashedFile, write_bytes
from torchtune.training.checkpointing.state import state_folder, write_recipe_state


def writer(content):
    def write(folder):
        (folder / "original").mkdir()
        records = {}
        for name in ("a.bin", "original/b.json"):
            with HashedFile(folder / name) as f:
                f.write(content.encode())
            records[name] = f.record
        (folder / "plain.txt").write_text(content)  # hashed by the commit
        return records

    return write


def make(path, content="x", **facts):
    commit_folder(path, writer(content), facts=facts)
    return path


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_a_committed_folder(tmp_path):
    folder = make(tmp_path / "out" / "epoch_0", "hello", step=3)
    assert is_complete(folder) and visible(folder) == ["MANIFEST.json", "a.bin", "original", "plain.txt"]
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert manifest["facts"] == {"step": 3}
    assert manifest["files"]["a.bin"] == manifest["files"]["plain.txt"]
    assert manifest["files"]["a.bin"]["bytes"] == 5
    assert sorted(os.listdir(tmp_path / "out")) == ["epoch_0"]


def test_a_folder_is_replaced(tmp_path):
    make(tmp_path / "epoch_0", "old")
    make(tmp_path / "epoch_0", "new")
    assert (tmp_path / "epoch_0" / "a.bin").read_text() == "new" and os.listdir(tmp_path) == ["epoch_0"]


def kill_at(call, work):
    """Run ``work`` in a fork that dies by SIGKILL just before its Nth change of the disk; True: it got to the end."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def deadly(function):
            def wrapped(*args, **kwargs):
                nonlocal count
                count += 1
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return wrapped

        for name in ("write", "rename", "replace", "fsync", "mkdir", "unlink", "rmdir", "open"):
            setattr(os, name, deadly(getattr(os, name)))
        work()
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("existing", [False, True])
def test_killed_at_every_stage(tmp_path, existing):
    """After each death: no folder looks complete and is not; the sweep leaves the old contents or the new."""
    contents = set()
    for call in range(1, 200):
        out = tmp_path / f"{call}"
        make(out / "epoch_0", "before", step=1)
        if existing:
            make(out / "epoch_1", "old", step=2)
        finished = kill_at(call, lambda out=out: make(out / "epoch_1", "new", step=2))
        for folder in checkpoints(out):
            assert is_complete(folder), f"killed before change {call}"
        sweep(out)
        assert not [p for p in os.listdir(out) if p.startswith(".")]
        content = (out / "epoch_1" / "a.bin").read_text() if (out / "epoch_1").exists() else None
        contents.add(content)
        newest, rejected = newest_complete(out)
        assert newest == out / ("epoch_1" if content else "epoch_0") and not rejected
        make(out / "epoch_1", "again", step=2)
        assert is_complete(out / "epoch_1") and not [p for p in os.listdir(out) if p.startswith(".")]
        if finished:
            break
        shutil.rmtree(out)
    assert finished and call > 20
    assert contents == ({"old", "new"} if existing else {None, "new"})


def test_pruning_killed_at_every_stage(tmp_path):
    for call in range(1, 200):
        out = tmp_path / f"{call}"
        for number in range(3):
            make(out / f"epoch_{number}", str(number), step=number)
            make(state_folder(out / f"epoch_{number}"), "state")
        finished = kill_at(call, lambda out=out: prune(out, 1))
        assert all(is_complete(f) for f in checkpoints(out))
        assert newest_complete(out, resume_fault)[0] == out / "epoch_2"
        sweep(out)
        if finished:
            break
    assert finished and os.listdir(out / "recipe_state") == ["epoch_2"] and visible(out) == ["epoch_2", "recipe_state"]


DAMAGES = {
    "changed": (lambda f: (f / "a.bin").write_text("jello"), "contents of a.bin have changed"),
    "longer": (lambda f: (f / "a.bin").write_text("hello!"), "a.bin has 6 bytes, 5 were written"),
    "gone": (lambda f: (f / "original" / "b.json").unlink(), "original/b.json is missing"),
    "no manifest": (lambda f: (f / "MANIFEST.json").unlink(), "has no MANIFEST.json"),
    "torn manifest": (lambda f: os.truncate(f / "MANIFEST.json", 40), "MANIFEST.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_an_older_one_is_taken(tmp_path, damage):
    make(tmp_path / "epoch_0", "hello", step=1)
    newest = make(tmp_path / "epoch_1", "hello", step=2)
    spoil, message = DAMAGES[damage]
    spoil(newest)
    assert message in fault(newest)
    found, rejected = newest_complete(tmp_path)
    assert found == tmp_path / "epoch_0" and message in rejected["epoch_1"]
    assert is_complete(newest, deep=False) is (damage == "changed")


def test_newest_is_by_steps_done_and_needs_its_run_state(tmp_path):
    assert newest_complete(tmp_path / "none", resume_fault) == (None, {})
    for name, step in (("step_20", 20), ("epoch_0", 15), ("epoch_1", 30)):
        make(tmp_path / name, step=step)
        make(state_folder(tmp_path / name))
    (tmp_path / "epochs").mkdir()
    assert [p.name for p in checkpoints(tmp_path)] == ["epoch_1", "step_20", "epoch_0"]
    (state_folder(tmp_path / "epoch_1") / "a.bin").unlink()
    found, rejected = newest_complete(tmp_path, resume_fault)
    assert found.name == "step_20" and rejected == {"epoch_1": "its run state recipe_state/epoch_1: a.bin is missing"}
    assert newest_complete(tmp_path)[0].name == "epoch_1"


def test_prune_keeps_the_last_the_protected_and_the_damaged(tmp_path):
    for number in range(5):
        make(tmp_path / f"epoch_{number}", step=number)
        make(state_folder(tmp_path / f"epoch_{number}"))
    (tmp_path / "epoch_4" / "a.bin").unlink()
    gone = prune(tmp_path, 1, protect=[tmp_path / "epoch_0"])
    assert visible(tmp_path) == ["epoch_0", "epoch_3", "epoch_4", "recipe_state"]
    assert {p.name for p in gone} >= {"epoch_1", "epoch_2"}
    assert prune(tmp_path, None, keep_states=1) and visible(tmp_path / "recipe_state") == ["epoch_3"]
    with pytest.raises(ConfigError, match="at least 1"):
        prune(tmp_path, 0)


def test_a_full_disk_is_told_before(tmp_path):
    make(tmp_path / "epoch_0")
    with pytest.raises(CheckpointError, match=r"needs \d+\.\d GB, .* are free.*older checkpoints are untouched"):
        commit_folder(tmp_path / "epoch_1", writer("x"), needed_bytes=10**17)
    assert os.listdir(tmp_path) == ["epoch_0"] and is_complete(tmp_path / "epoch_0")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_while_writing(tmp_path, monkeypatch, code):
    make(tmp_path / "epoch_0", "old")

    def full(fd, data):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(io.os, "write", full)
    with pytest.raises(
        CheckpointError, match="no space left.* needs 9 kB, .* are free. Older checkpoints are untouched"
    ) as e:
        commit_folder(tmp_path / "epoch_0", writer("new"), needed_bytes=9000)
    assert e.value.exit_code == 4
    assert os.listdir(tmp_path) == ["epoch_0"] and (tmp_path / "epoch_0" / "a.bin").read_text() == "old"
    assert is_complete(tmp_path / "epoch_0")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot read or write .*file"):
        make(tmp_path / "file" / "epoch_0")


class Peers:
    """Two processes, played by threads."""

    def __init__(self):
        self.barrier, self.values = threading.Barrier(2), {}

    def gather(self, rank):
        def gather(value):
            self.values[rank] = value
            self.barrier.wait(10)
            result = [self.values[0], self.values[1]]
            self.barrier.wait(10)
            return result

        return gather

    def run(self, work):
        outcomes = [None, None]

        def one(rank):
            try:
                outcomes[rank] = work(rank, self.gather(rank))
            except CheckpointError as e:
                outcomes[rank] = str(e)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(20)
        return outcomes


def rank_writer(rank, broken):
    def write(folder):
        if rank == broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return {f"{rank}.bin": write_bytes(folder / f"{rank}.bin", b"abc")}

    return write


@pytest.mark.parametrize("broken", [None, 0, 1])
def test_two_processes_agree(tmp_path, broken):
    outcomes = Peers().run(
        lambda rank, gather: commit_folder(
            tmp_path / "step_1", rank_writer(rank, broken), main=rank == 0, gather=gather, facts={"step": 1}
        )
    )
    if broken is None:
        assert outcomes == [None, None] and is_complete(tmp_path / "step_1")
        assert visible(tmp_path / "step_1") == ["0.bin", "1.bin", "MANIFEST.json"]
    else:
        assert all("no space left" in o for o in outcomes) and os.listdir(tmp_path) == []


LOCKING = """
import sys, time
from torchtune.errors import CheckpointError
from torchtune.training.checkpointing._lock import OutputLock
try:
    lock = OutputLock(sys.argv[1])
    print("held", flush=True)
    time.sleep(60)
except CheckpointError as e:
    print(e, flush=True)
"""


def locker(folder):
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen([sys.executable, "-c", LOCKING, folder], stdout=subprocess.PIPE, text=True, env=env)


def test_one_run_in_a_folder(tmp_path):
    first = locker(tmp_path)
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=rf"in use by process {first.pid} on .*choose another output_dir"):
            OutputLock(tmp_path)
    finally:
        first.kill()
        first.wait()
    with OutputLock(tmp_path):  # a killed run holds nothing
        pass


def test_an_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(CheckpointError, match="out is a file; name a folder"):
        OutputLock(tmp_path / "out")


def test_recipe_state_file(tmp_path):
    import torch

    write_recipe_state(tmp_path, {"seed": 1, "epochs_run": 2})
    write_recipe_state(tmp_path, {"seed": 1, "epochs_run": 3})
    assert torch.load(tmp_path / "recipe_state/recipe_state.pt", weights_only=True)["epochs_run"] == 3
    assert os.listdir(tmp_path / "recipe_state") == ["recipe_state.pt"]
    make(tmp_path / "epoch_0")
    prune(tmp_path, 1)
    assert (tmp_path / "recipe_state/recipe_state.pt").exists()
