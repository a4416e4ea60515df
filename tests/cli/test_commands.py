"""The commands that answer at once: what they print, that they are quick, and that they load no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from light import COMMAND, check_light

from torchtune import __version__
from torchtune.cli import main
from torchtune.cli.catalog import configs, recipes_root

REPO = Path(__file__).parents[2]
LIGHT = {
    "--help": [],
    "ls": [],
    "cp": ["llama3_2/1B_full", "copy.yaml"],
    "cat": ["llama3_2/1B_full"],
    "validate": ["llama3_2/1B_full"],
    "data": ["--help"],
    "chat": ["--help"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tune(*arguments: str) -> int:
    """Runs the command in this process and gives its exit code."""
    try:
        main(arguments)
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.mark.parametrize("command", LIGHT)
def test_light_commands_load_no_torch_and_take_a_fifth_of_a_second(folder, command):
    check_light(COMMAND, [command, *LIGHT[command]])


def test_help(capsys):
    assert tune("--help") == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: tune [-h] {")
    assert "ls,cp,cat,run,validate" in text.splitlines()[0]
    assert "Welcome to the torchtune CLI!" in text
    assert tune() == 0
    assert capsys.readouterr().out == text


def test_version(capsys):
    assert tune("--version") == 0
    assert capsys.readouterr().out == f"torchtune {__version__}\n"


@pytest.mark.parametrize(
    "given, said",
    [("lss", "Did you mean ls?"), ("full_finetune_single_device", "tune run full_finetune_single_device --config")],
)
def test_unknown_command(capsys, given, said):
    assert tune(given) == 2
    assert said in capsys.readouterr().err


def test_ls_is_a_table_of_two_columns_with_each_recipe_once(capsys):
    assert tune("ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{'RECIPE':<40} CONFIG"
    rows = [(line[:40].strip(), line[41:]) for line in lines[1:]]
    recipes = [
        f"{method}_finetune_{layout}" for method in ("full", "lora") for layout in ("single_device", "distributed")
    ]
    found = [recipe for recipe, _ in rows if recipe]
    assert found[:4] == recipes and sorted(found[4:]) == ["eleuther_eval", "generate", "quantize"]
    assert [config for _, config in rows] == [config.name for config in configs()]


def test_ls_json(capsys):
    assert tune("ls", "--json") == 0
    entries = {entry["recipe"]: entry for entry in json.loads(capsys.readouterr().out)}
    path = entries["full_finetune_distributed"]["configs"]["llama3/70B_full"]
    assert Path(path) == recipes_root() / "configs/llama3/70B_full.yaml"
    assert entries["full_finetune_distributed"]["supports_distributed"]


def test_ls_into_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -m torchtune.cli ls --json | head -c 1"
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[", "")


def test_cat_prints_the_file_and_sorts(capsys):
    assert tune("cat", "llama3_2/1B_full") == 0
    assert capsys.readouterr().out == (recipes_root() / "configs/llama3_2/1B_full.yaml").read_text()
    assert tune("cat", "llama3_2/1B_full", "--sort") == 0
    text = capsys.readouterr().out
    keys = list(yaml.safe_load(text))
    assert keys == sorted(keys) and "checkpointer" in keys


def test_cat_of_a_recipe_or_nothing(capsys):
    assert tune("cat", "full_finetune_distributed") == 2
    assert tune("cat", "llama3_2/1B_fall") == 2
    said = capsys.readouterr().err
    assert "is a recipe" in said and "Did you mean llama3_2/1B_full" in said


@pytest.mark.parametrize(
    "destination, written",
    [("mine.yaml", "mine.yaml"), ("mine", "mine.yaml"), ("there", "there/1B_full.yaml"), (".", "1B_full.yaml")],
)
def test_cp(folder, capsys, destination, written):
    (folder / "there").mkdir()
    assert tune("cp", "llama3_2/1B_full", destination) == 0
    assert capsys.readouterr().out == f"Copied file to {written}\n"
    assert (folder / written).read_text() == (recipes_root() / "configs/llama3_2/1B_full.yaml").read_text()


def test_cp_of_a_recipe(folder, capsys):
    assert tune("cp", "full_finetune_distributed", "mine") == 0
    assert (folder / "mine.py").read_text() == (recipes_root() / "finetune.py").read_text()


def test_cp_keeps_an_existing_file_only_when_told_to(folder, capsys):
    target = folder / "mine.yaml"
    target.write_text("old")
    assert tune("cp", "llama3_2/1B_full", "mine.yaml", "-n") == 0
    assert target.read_text() == "old"
    assert "not overwriting" in capsys.readouterr().out
    assert tune("cp", "llama3_2/1B_full", "mine.yaml") == 0
    assert target.read_text() != "old"


def test_cp_into_missing_folders(folder, capsys):
    assert tune("cp", "llama3_2/1B_full", "a/b/mine.yaml") == 2
    assert "--make-parents" in capsys.readouterr().err
    assert not (folder / "a").exists()
    assert tune("cp", "llama3_2/1B_full", "a/b/mine.yaml", "--make-parents") == 0
    assert (folder / "a/b/mine.yaml").exists()


def test_cp_of_an_unknown_name(folder, capsys):
    assert tune("cp", "llama3_2/1B_fall", "mine") == 2
    assert "Did you mean llama3_2/1B_full" in capsys.readouterr().err
    assert not list(folder.iterdir())
