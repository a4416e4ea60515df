"""Runs in several processes: arguments, one exit code and one message for all, signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchtune.cli._launch import _conclude

REPO = Path(__file__).parents[2]
RECIPE = """
import os, signal, sys, time
from pathlib import Path
from torchtune import errors
rank = int(os.environ["RANK"])
mode = sys.argv[-1]
if mode == "argv":
    names = ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "OMP_NUM_THREADS")
    line = " ".join([__name__, *sys.argv[1:], *(os.environ[name] for name in names)])
    os.write(1, f"{line}\\n".encode())  # in one piece, whatever the other process writes
elif mode == "save":
    def save(number, frame):
        time.sleep(1)
        os.write(1, f"saved {rank} {number}\\n".encode())
        sys.exit(128 + number)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, save)
    Path(f"ready{rank}").touch()
    time.sleep(60)
elif rank == 1:
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "bug":
        1 / 0
    raise errors.DataError("row 3 has no 'instruction'")
else:
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.py").write_text(RECIPE)
    return tmp_path


def start(*arguments: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "torchtune.cli", "run", "--nproc_per_node", "2", *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_every_process_gets_the_arguments(folder):
    run = start("recipe.py", "a=1", "argv")
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    threads = os.environ["OMP_NUM_THREADS"]
    assert sorted(out.splitlines()) == [f"__main__ a=1 argv 2 {rank} 127.0.0.1 {threads}" for rank in (0, 1)]
    assert err == ""


@pytest.mark.parametrize("given, code", [("-m recipe argv", 0), ("--no-python false", 1)])
def test_a_module_or_another_program(folder, given, code):
    run = start(*given.split())
    out, err = run.communicate(timeout=60)
    assert run.returncode == code, err
    assert len(out.splitlines()) == (2 if code == 0 else 0)


@pytest.mark.parametrize(
    "mode, code, said", [("data", 3, "row 3 has no"), ("kill", 6, "killed by SIGKILL"), ("bug", 1, "ZeroDivisionError")]
)
def test_the_exit_code_is_that_of_the_process_that_failed(folder, mode, code, said):
    run = start("recipe.py", mode)
    out, err = run.communicate(timeout=60)
    assert run.returncode == code, err
    assert said in err and err.startswith("[rank 1]")
    assert ("Traceback" in err) == (mode == "bug")
    assert len(err.splitlines()) <= 15


def start_to_save(folder) -> subprocess.Popen:
    """Processes that save when they are told to stop, all of them ready to be told."""
    run = start("recipe.py", "save")
    limit = time.monotonic() + 60
    while not all((folder / f"ready{rank}").exists() for rank in (0, 1)):
        assert run.poll() is None and time.monotonic() < limit
        time.sleep(0.1)
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_processes_save(folder, number):
    run = start_to_save(folder)
    run.send_signal(number)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 128 + number, err
    assert sorted(out.splitlines()) == [f"saved {rank} {number.value}" for rank in (0, 1)]
    assert "Traceback" not in err


def test_processes_whose_launcher_is_killed_save_and_end(folder):
    run = start_to_save(folder)
    run.kill()
    out, err = run.communicate(timeout=30)  # ends when they have, which hold its pipes
    assert sorted(out.splitlines()) == [f"saved {rank} {signal.SIGTERM.value}" for rank in (0, 1)], err
    assert "Traceback" not in err


def test_several_machines_need_an_address(folder):
    run = start("--nnodes", "2", "recipe.py", "argv")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2
    assert "--rdzv-endpoint" in err


def outcome(code: int, when: float, text: str = "") -> dict:
    return {"code": code, "time": when, "text": text}


class Failure:
    """torchrun's record of a process that ended badly."""

    pid, timestamp = 77, 3

    def __init__(self, exitcode: int):
        self.exitcode = exitcode


@pytest.mark.parametrize(
    "outcomes, failures, code",
    [
        ({0: outcome(6, 1.0), 1: outcome(4, 2.0)}, {}, 4),  # a peer that sees the other go may speak first
        ({0: outcome(3, 2.0), 1: outcome(5, 1.0)}, {}, 5),
        ({0: outcome(1, 1.0)}, {1: Failure(-9)}, 6),  # killed: the other's error follows from it
        ({0: outcome(3, 4.0)}, {1: Failure(-15)}, 3),  # stopped by torchrun
        ({0: outcome(0, 1.0), 1: outcome(143, 1.0)}, {}, 143),
        ({0: outcome(0, 1.0), 1: outcome(0, 1.0)}, {}, 0),  # the signal came when all was done
        ({}, {}, 143),  # all stopped before there was anything to save
        ({}, {0: Failure(9)}, 9),  # no Python program
    ],
)
def test_which_failure_counts(outcomes, failures, code):
    assert _conclude(outcomes, failures, signal.SIGTERM) == code
