"""What a user can mend ends with its exit code and a few lines that name the place; nothing half-done is left."""

import json
import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import Ended, make_model, wait_for

QUIET = "log_level=ERROR"


def assert_told(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    assert "Traceback (most recent call last)" not in ended.err
    assert len(ended.err.splitlines()) <= 15, ended.err
    for word in words:
        assert word in ended.err


def changed_model(tiny, name: str, change) -> str:
    folder = make_model(tiny.root / name)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return f"checkpointer.checkpoint_dir={folder}"


def test_a_misspelt_key(tiny):
    config = tiny.root / "misspelt.yaml"
    config.write_text(tiny.config.read_text() + "learning_rate: 3\ngradient_acumulation_steps: 2\n")
    line = config.read_text().splitlines().index("learning_rate: 3") + 1
    command = [str(config) if word == str(tiny.config) else word for word in tiny.command("misspelt")]
    ended = tiny.call(command)
    assert_told(ended, 2, f"misspelt.yaml:{line}", f"misspelt.yaml:{line + 1}", "'gradient_accumulation_steps'")
    assert not (tiny.root / "misspelt").exists()


@pytest.mark.parametrize("row", ['{"instruction": "a", "output"', '{"instruction": "a", "input": ""}', '"text"'])
def test_a_bad_row(tiny, row):
    rows = (tiny.root / "rows.jsonl").read_text().splitlines()
    (tiny.root / "bad.jsonl").write_text("\n".join([*rows[:5], row, *rows[6:]]))
    ended = tiny.run("bad-row", QUIET, f"dataset.data_files={tiny.root / 'bad.jsonl'}")
    assert_told(ended, 3, "bad.jsonl, line 6")


def test_fewer_samples_than_a_step_needs(tiny):
    ended = tiny.run("small", QUIET, f"dataset.data_files={tiny.root / 'val.jsonl'}", "batch_size=4")
    assert_told(ended, 3, "7 samples", "batch_size 4 x gradient_accumulation_steps 2")


def test_a_checkpoint_that_is_not_there(tiny):
    ended = tiny.run("absent", QUIET, f"checkpointer.checkpoint_dir={tiny.root / 'nowhere'}")
    assert_told(ended, 4, "nowhere")


def test_a_truncated_file(tiny):
    folder = make_model(tiny.root / "truncated")
    os.truncate(folder / "model.safetensors", 20_000)
    ended = tiny.run("truncated-run", QUIET, f"checkpointer.checkpoint_dir={folder}")
    assert_told(ended, 4, "model.safetensors")


def test_a_missing_and_a_misshapen_tensor(tiny):
    def change(tensors):
        tensors["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(8, 64)
        del tensors["model.norm.weight"]

    ended = tiny.run("shapes", QUIET, changed_model(tiny, "shapes-model", change))
    assert_told(ended, 4, "layers.0.self_attn.k_proj.weight", "[8, 64]", "[32, 64]", "norm.scale")


def test_a_vocabulary_smaller_than_the_tokenizers(tiny):
    folder = make_model(tiny.root / "other-vocabulary", vocab_size=260)
    ended = tiny.run("vocabulary", QUIET, f"checkpointer.checkpoint_dir={folder}", "model.vocab_size=260")
    assert_told(ended, 4, "260", "264")


@pytest.mark.parametrize("processes", [1, 2])
def test_weights_that_are_not_numbers(tiny, processes):
    def change(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")

    base, out = changed_model(tiny, f"nan-model-{processes}", change), f"nan-{processes}"
    ended = tiny.run(out, QUIET, base, "save_every_n_steps=1", processes=processes)
    assert ended.codes == [5] * processes
    if processes == 1:
        assert_told(ended, 5, "step 1", "nan", "not taken")
    assert [p.name for p in (tiny.root / out).iterdir() if p.is_dir()] == ["logs"]
    assert "Traceback" in (tiny.root / out / "logs" / "error_rank0.log").read_text()


def test_numbers_that_overflow_in_the_middle(tiny):
    ended = tiny.run("overflow", QUIET, "optimizer=torch.optim.SGD", "optimizer.lr=1e18", "save_every_n_steps=1")
    assert_told(ended, 5, "The step was not taken")
    for tensor in tiny.weights("overflow", tiny.state("overflow")["last_checkpoint"]).values():
        assert tensor.isfinite().all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(tiny):
    assert_told(tiny.run("gpu", QUIET, "device=cuda"), 2, "cuda")


def test_two_runs_in_one_folder(tiny):
    first = tiny.start("shared", "epochs=3", QUIET)
    tiny.wait_for_step("shared", 1)
    [pid] = [child.pid for child in first]
    kept = [child.files[1].rename(child.files[1].with_suffix(".first")) for child in first]
    ended = tiny.run("shared", QUIET)
    assert_told(ended, 4, "in use by", str(pid))
    first[0].files[1] = kept[0]
    assert wait_for(first).code == 0
    assert len(tiny.metrics("shared")) == 36


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_peer_that_is_gone_or_hangs(tiny, how):
    out = f"peer-{how.name}"
    children = tiny.start(out, QUIET, "epochs=9", "batch_size=1", "train_timeout_seconds=2", processes=2)
    tiny.wait_for_step(out, 3)
    os.kill(children[1].pid, how)
    started = time.monotonic()
    ended = children[0].wait()
    assert_told(ended, 6, "Another process")
    assert time.monotonic() - started < 20
    if how == signal.SIGSTOP:
        os.kill(children[1].pid, signal.SIGKILL)
    assert children[1].wait().code == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_worker_ends_the_run(tiny):
    process = tiny.popen("worker", QUIET, "epochs=40", "batch_size=1", processes=2)
    tiny.wait_for_step("worker", 3)
    workers = [pid for pid in tiny.descendants(process.pid) if "torchtune.cli._worker" in tiny.command_of(pid)]
    os.kill(workers[0], signal.SIGKILL)
    assert process.wait(60) == 6
    said = (tiny.root / "worker.err").read_text()
    assert "was killed by SIGKILL" in said and "Traceback (most recent call last)" not in said


@pytest.mark.slow
def test_a_fault_that_two_processes_meet_is_told_once(tiny):
    rows = [json.loads(line) for line in (tiny.root / "rows.jsonl").read_text().splitlines()]
    rows[1]["output"] = {"not": "text"}
    (tiny.root / "bad-twice.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ended = tiny.cli("bad-twice", QUIET, f"dataset.data_files={tiny.root / 'bad-twice.jsonl'}", processes=2)
    assert_told(ended, 3, "bad-twice.jsonl, line 2")
    assert ended.err.count("DataError") == 1
