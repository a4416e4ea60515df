"""`tune demo` from the command line: what it prints and leaves, and which folders it takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from torchtune.cli import main
from torchtune.config import load

REPO = Path(__file__).parents[2]


def tune(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "torchtune.cli", *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=600)


def here(*arguments: str) -> int:
    """Runs the command in this process and gives its exit code."""
    try:
        main(arguments)
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A demo that ran with the defaults: its process and its folder."""
    cwd = tmp_path_factory.mktemp("demo")
    return tune("demo", cwd=cwd), cwd / "tune-demo"


@pytest.mark.slow
def test_from_no_right_answer_to_nearly_all(finished):
    done, folder = finished
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "demo.json").read_text())
    assert results["status"] == "completed"
    assert results["exact_match"]["before"] <= 0.05
    assert results["exact_match"]["after"] >= 0.9
    losses = list(results["loss"].values())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.slow
def test_what_is_printed(finished):
    done, folder = finished
    results = json.loads((folder / "demo.json").read_text())
    match = results["exact_match"]
    assert f"{match['before']:.1%} before, {match['after']:.1%} after" in done.stdout
    for said in ("Loss: ", "Prompt ", "tune-demo", "tune download meta-llama/", "tune cp ", "tune run "):
        assert said in done.stdout
    assert "\r" not in done.stdout + done.stderr and "\x1b" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 140
    for name in ("epoch_1", "metrics.jsonl", "torchtune_config.yaml"):
        assert name in done.stdout and (folder / name).exists()


@pytest.mark.slow
def test_transformers_opens_the_tuned_model_with_equal_logits(finished):
    import transformers

    from torchtune.training import FullModelHFCheckpointer

    tuned = finished[1] / "epoch_1"
    checkpointer = FullModelHFCheckpointer(str(tuned))
    model = checkpointer.family.build(checkpointer.config)
    model.load_state_dict(dict(checkpointer.weights(model.state_dict())))
    theirs, info = transformers.LlamaForCausalLM.from_pretrained(tuned, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Spell."}], return_tensors="pt")
    with torch.no_grad():
        logits = theirs.eval()(prompt["input_ids"]).logits
        torch.testing.assert_close(model.eval()(prompt["input_ids"]), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_second_demo_replaces_the_first_and_takes_settings(finished):
    done, folder = finished
    (folder / "left_over").mkdir()
    short = tune("demo", "epochs=1", "max_steps_per_epoch=2", cwd=folder.parent)
    assert short.returncode == 0, short.stderr
    assert "The earlier demo in tune-demo is replaced." in short.stdout
    assert not (folder / "left_over").exists()
    assert len(json.loads((folder / "demo.json").read_text())["loss"]) == 2


def test_a_folder_with_other_things_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert here("demo", "--output-dir", "mine") == 2
    assert "did not make it" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["batchsize=3"], "Did you mean 'batch_size'"),
        (["--output-dir", "a", "output_dir=b"], "given twice"),
        (["--outputdir", "a"], "unrecognized arguments"),
    ],
)
def test_faults_come_before_anything_is_written(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert here("demo", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_and_faults_need_no_torch():
    code = "import sys; from torchtune.cli import main\n"
    code += "try: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    for argument, exit_code, said in (("--help", 0, "./tune-demo"), ("batchsize=3", 2, "batch_size")):
        command = [sys.executable, "-c", code, "demo", argument]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True)
        assert done.returncode == exit_code and said in done.stdout + done.stderr


def test_the_config_is_an_ordinary_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert here("cat", "demo") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["recipe"] == "full_finetune_single_device"
    assert shown["dataset"]["_component_"] == "torchtune.datasets.alpaca_dataset"
    assert here("validate", "demo") == 0
    assert here("cp", "demo", "mine.yaml") == 0
    assert here("validate", "mine.yaml") == 0
    assert Path(load("mine.yaml").cfg.checkpointer.checkpoint_dir, "config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [["full_finetune_single_device"], []])
def test_a_copy_runs_as_any_config(tmp_path, recipe):
    assert tune("cp", "demo", "mine.yaml", cwd=tmp_path).returncode == 0
    done = tune("run", *recipe, "--config", "mine.yaml", "epochs=1", "max_steps_per_epoch=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tune-demo" / "epoch_0" / "config.json").is_file()
