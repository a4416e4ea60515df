"""Which code an error ends a run with, what is printed and what is written."""

import errno
import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from torchtune.errors import CheckpointError, ConfigError, DataError
from torchtune.utils.exit_codes import ending, exit_code_of, exits_cleanly, read_records


@pytest.mark.parametrize(
    "error, code",
    [
        (ConfigError("x"), 2),
        (CheckpointError("x"), 4),
        (OSError(errno.ENOSPC, "no space"), 4),
        (torch.OutOfMemoryError("CUDA out of memory"), 7),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), 7),
        (RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), 6),
        (torch.distributed.DistNetworkError("timed out"), 6),
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),
        (SystemExit(), 0),
        (SystemExit("message"), 1),
        (OSError(errno.ENOENT, "no file"), 1),
        (RuntimeError("shape mismatch"), 1),
        (ModuleNotFoundError("No module named 'torchdata'", name="torchdata.nodes"), 2),
        (ModuleNotFoundError("No module named 'torchtune.nonsense'", name="torchtune.nonsense"), 1),
    ],
)
def test_code(error, code):
    assert exit_code_of(error) == code


class Killed(torch.utils.data.Dataset):
    """Ends the process that reads it."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_that_prepares_batches_is_no_bug(capsys):
    with pytest.raises(SystemExit) as stop, ending():
        list(torch.utils.data.DataLoader(Killed(), num_workers=1))
    assert stop.value.code == 6
    said = capsys.readouterr().err
    assert "DataLoader worker (pid" in said and "lower num_workers" in said and "Traceback (most" not in said


def test_the_traceback_goes_below_the_output_folder(tmp_path, capsys):
    @exits_cleanly
    def main(cfg):
        raise DataError("row 3")

    with pytest.raises(SystemExit) as stop:
        main(SimpleNamespace(output_dir=str(tmp_path / "out")))
    assert stop.value.code == 3
    path = tmp_path / "out/logs/error_rank0.log"
    assert "Traceback" in path.read_text() and "row 3" in path.read_text()
    assert capsys.readouterr().err == f"DataError: row 3\nThe traceback is in {path}\n"


def test_a_folder_that_cannot_be_written_is_said(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit), ending(tmp_path / "file" / "logs"):
        raise DataError("row 3")
    assert "could not be written" in capsys.readouterr().err


def test_the_innermost_block_reports_once(capsys):
    with pytest.raises(SystemExit) as stop, ending(), ending():
        raise DataError("row 3")
    assert stop.value.code == 3
    assert capsys.readouterr().err.count("row 3") == 1


def test_an_unforeseen_error_is_ours_or_of_a_file_of_the_users(capsys):
    def stopped_by(call) -> str:
        with pytest.raises(SystemExit) as stop, ending():
            call()
        assert stop.value.code == 1
        return capsys.readouterr().err.splitlines()[-1]

    def mine():
        json.loads("{")  # raised in a library, but called here

    line = mine.__code__.co_firstlineno + 1
    assert stopped_by(mine) == f"It happened in {__file__}, line {line}, which is no part of torchtune."
    assert stopped_by(lambda: read_records(None)).startswith("This looks like a bug")


def test_out_of_memory_comes_with_advice(capsys):
    with pytest.raises(SystemExit), ending():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    text = capsys.readouterr().err
    assert "batch_size" in text and "enable_activation_checkpointing" in text


def test_a_worker_leaves_its_outcome_to_the_launcher(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TUNE_EXIT_DIR", str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit), ending(), ending():
        raise DataError("row 3")
    assert capsys.readouterr().err == ""
    record = read_records(tmp_path)[1]
    assert (record["code"], "row 3" in record["text"]) == (3, True)
    monkeypatch.setenv("RANK", "0")
    with ending():
        pass
    assert json.loads((tmp_path / "0.json").read_text())["code"] == 0


def test_a_worker_whose_launcher_is_gone_speaks_for_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TUNE_EXIT_DIR", str(tmp_path / "gone"))
    with pytest.raises(SystemExit), ending():
        raise DataError("row 3")
    assert "row 3" in capsys.readouterr().err


def test_the_arguments_and_the_result_pass_through():
    @exits_cleanly
    def main(cfg: int) -> int:
        return cfg + 1

    assert main(2) == 3
    assert main.__annotations__ == {"cfg": int, "return": int}


def test_a_missing_package_is_named_with_the_command_that_installs_it(capsys):
    with pytest.raises(SystemExit), ending():
        import a_package_that_is_not_there.part  # noqa: F401
    assert "pip install a_package_that_is_not_there" in capsys.readouterr().err
