"""`tune validate`, and what `cat` and `cp` refuse of a config that the user brings."""

import pytest

from torchtune.cli import main
from torchtune.cli.catalog import recipes_root

GOOD = (recipes_root() / "configs/alpaca_llama2_full_finetune.yaml").read_text()
UNSAFE = "thing:\n  _component_: os.system\n  command: ls\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "unsafe.yaml").write_text(UNSAFE)
    return tmp_path


def tune(*arguments: str) -> int:
    """Runs the command in this process and gives its exit code."""
    try:
        main(arguments)
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_well_formed(folder, capsys):
    assert tune("validate", "llama3/8B_lora") == 0
    assert capsys.readouterr() == ("Config is well-formed!\n", "")


def test_what_is_worth_knowing_of_a_good_config(folder, capsys):
    assert tune("validate", "good", "low_cpu_ram=True") == 0
    out, said = capsys.readouterr()
    assert out == "Config is well-formed!\n"
    assert "Note: lr: taken as optimizer.lr." in said and "Note: low_cpu_ram: accepted, no effect" in said
    assert tune("validate", "llama3/8B_lora", "model.lora_rank=48") == 0
    assert "Note: model.lora_rank: to serve rank 48, vLLM's max_lora_rank has to be 64" in capsys.readouterr().err


def test_all_faults_at_once_with_their_lines(folder, capsys):
    (folder / "bad.yaml").write_text(GOOD.replace("epochs: 3", "epoch: 3").replace("batch_size: 2", "batch_size: two"))
    assert tune("validate", "bad.yaml", "shufle=False") == 2
    said = capsys.readouterr().err
    line = next(n for n, text in enumerate(GOOD.splitlines(), 1) if text.startswith("epochs"))
    assert f"bad.yaml:{line}: 'epoch' is not a key" in said
    assert "batch_size must be" in said and "'shufle'" in said
    assert "3 faults found." in said


def test_overrides_are_part_of_what_is_checked(folder, capsys):
    assert tune("validate", "good.yaml", "batch_size=0") == 2
    assert "batch_size must be" in capsys.readouterr().err


def test_a_config_for_no_known_recipe(folder, capsys):
    (folder / "own.yaml").write_text("my_key: 3\n")
    assert tune("validate", "own.yaml") == 0
    assert "only components are checked" in capsys.readouterr().err
    assert tune("validate", "own.yaml", "--recipe", "full_finetune_distributed") == 2
    assert "my_key" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["validate", "unsafe.yaml"], ["cat", "unsafe.yaml"], ["cp", "unsafe.yaml", "copy"]]
)
def test_unsafe_components_are_refused_unless_allowed(folder, capsys, command):
    assert tune(*command) == 2
    out, said = capsys.readouterr()
    assert "unsafe.yaml:2" in said and "--allow-component os" in said
    assert not (folder / "copy.yaml").exists() and "os.system" not in out
    assert tune(*command, "--allow-component", "mypackage") == 2


def test_an_allowed_package(folder, capsys):
    (folder / "own.yaml").write_text("thing:\n  _component_: colorsys.rgb_to_hsv\n  r: 1\n  g: 1\n  b: 1\n")
    assert tune("cat", "own.yaml") == 2
    assert tune("cat", "own.yaml", "--allow-component", "colorsys") == 0
    assert "rgb_to_hsv" in capsys.readouterr().out


def test_a_file_that_is_still_being_written_can_be_shown(folder, capsys):
    (folder / "draft.yaml").write_text("optimizer:\n  _component_: torch.optim.AdamX\n")
    assert tune("cat", "draft.yaml") == 0
    assert "AdamX" in capsys.readouterr().out


def test_a_training_config_that_names_no_recipe_has_its_keys_checked(folder, capsys):
    (folder / "old.yaml").write_text("output_dir: out\nepochs: 1\nbatch_size: 2\nmodle: {}\n")
    assert tune("validate", "old.yaml") == 2
    said = capsys.readouterr().err
    assert "checked as one for full_finetune_single_device" in said
    assert "old.yaml:4" in said and "'model'" in said


def test_a_method_of_torchtune_that_is_not_here_is_called_so(folder, capsys):
    assert tune("validate", "llama2/7B_lora_dpo_single_device") == 2
    assert "for dpo are not part of this version" in capsys.readouterr().err


def test_a_recipe_named_here_is_held_against_the_model(folder, capsys):
    text = (recipes_root() / "configs/llama3/8B_lora.yaml").read_text()
    (folder / "old.yaml").write_text(text.replace("recipe: lora_finetune_distributed\n", ""))
    assert tune("validate", "old.yaml") == 0
    assert "checked as one for lora_finetune_single_device" in capsys.readouterr().err
    assert tune("validate", "old.yaml", "--recipe", "full_finetune_distributed") == 2
    said = capsys.readouterr().err
    assert "use torchtune.models.llama3.llama3_8b, or the recipe lora_finetune_distributed" in said
