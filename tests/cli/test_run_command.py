"""What a `tune run` command line means, and a recipe run in one process: its arguments, exit codes and messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchtune.cli import main
from torchtune.cli import run as run_module
from torchtune.cli.catalog import recipes_root
from torchtune.cli.run import TORCHRUN_OPTIONS, parse
from torchtune.errors import ConfigError

REPO = Path(__file__).parents[2]
RECIPE = """
import builtins, os, sys
from torchtune import errors
print(__name__, sys.argv)
print([os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "TOKENIZERS_PARALLELISM")])
print("torch" in sys.modules)
kind = dict(argument.split("=") for argument in sys.argv[1:] if "=" in argument).get("kind")
if kind == "exit":
    sys.exit(143)
if kind == "helper":
    import beside
if kind:
    error = getattr(errors, kind, None) or getattr(builtins, kind)
    raise error("line one" + chr(10) + chr(10).join(f"detail {i}" for i in range(40)))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-recipe.py").write_text(RECIPE)
    return tmp_path


def tune(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPO), **env}
    command = [sys.executable, "-m", "torchtune.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_parts_of_a_command_line():
    line = parse("--nnodes 1 --nproc_per_node=2 -t 3 rec --config conf a.b=1 ~c --allow-component=x --flag".split())
    assert line.torchrun == ["--nnodes", "1", "--nproc_per_node=2", "-t", "3"]
    assert (line.recipe, line.config, line.allowed) == ("rec", "conf", ["x"])
    assert line.arguments == ["a.b=1", "~c", "--flag"]


@pytest.mark.parametrize("form", ["--nproc_per_node 4", "--nproc-per-node 4", "--nproc-per-node=4", "--nproc 4"])
def test_spellings_of_a_torchrun_option(form):
    line = parse([*form.split(), "rec", "--config", "conf"])
    assert (line.torchrun, line.recipe) == (form.split(), "rec")


def test_the_recipe_may_be_left_out():
    line = parse("--standalone --config conf a=1".split())
    assert (line.torchrun, line.recipe, line.config, line.arguments) == (["--standalone"], None, "conf", ["a=1"])
    assert parse("a=1 --config=conf".split()).recipe is None


@pytest.mark.parametrize(
    "given, said",
    [
        ("--nproc_per_nod 2 rec --config c", ""),  # a unique beginning, as argparse takes it
        ("--nprocs_per_node 2 rec", "Did you mean --nproc-per-node"),
        ("--nnodes", "wants a value"),
        ("rec --config", "wants a value"),
    ],
)
def test_faults_of_a_command_line(given, said):
    if not said:
        assert parse(given.split()).recipe == "rec"
        return
    with pytest.raises(ConfigError, match=said):
        parse(given.split())


def test_torchruns_options_are_the_ones_that_torch_has():
    parser = __import__("torch.distributed.run", fromlist=["run"]).get_args_parser()
    theirs = {
        max((s for s in action.option_strings if "_" not in s), key=len).removeprefix("--"): action.nargs != 0
        for action in parser._actions
        if action.option_strings and "--help" not in action.option_strings
    }
    assert theirs.items() <= TORCHRUN_OPTIONS.items()


def test_a_local_recipe_runs_as_a_script_with_threads_that_sleep(folder):
    done = tune("run", "./my-recipe.py", "--flag", "a=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "__main__ ['my-recipe.py', '--flag', 'a=1']",
        "['passive', '20000', 'false']",
        "False",
    ]


def test_a_recipe_can_import_the_file_beside_it(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "recipe.py").write_text("import beside, here")
    (folder / "sub" / "beside.py").write_text("print('beside')")
    (folder / "here.py").write_text("print('here')")
    assert tune("run", "sub/recipe").stdout == "beside\nhere\n"


@pytest.mark.parametrize(
    "kind, code",
    [
        ("ConfigError", 2),
        ("MissingDependency", 2),
        ("DataError", 3),
        ("CheckpointError", 4),
        ("NonFiniteError", 5),
        ("MemoryError", 7),
        ("KeyboardInterrupt", 130),
        ("exit", 143),
    ],
)
def test_exit_codes_without_a_traceback(folder, kind, code):
    done = tune("run", "my-recipe.py", f"kind={kind}")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 15


def test_a_bug_has_its_traceback_and_so_has_any_error_when_asked(folder):
    bug = tune("run", "my-recipe.py", "kind=ZeroDivisionError")
    assert bug.returncode == 1
    assert "ZeroDivisionError: line one" in bug.stderr and "my-recipe.py" in bug.stderr
    assert "runpy" not in bug.stderr
    asked = tune("run", "my-recipe.py", "kind=DataError", TUNE_TRACEBACK="1")
    assert asked.returncode == 3 and "Traceback" in asked.stderr


def test_needs_a_recipe_or_a_config():
    done = tune("run", "batch_size=3")
    assert done.returncode == 2 and "needs a recipe or a config" in done.stderr


def test_a_registered_recipe_needs_a_config_and_its_torchrun_options_first():
    done = tune("run", "full_finetune_distributed")
    assert done.returncode == 2 and "needs --config" in done.stderr
    done = tune("run", "full_finetune_distributed", "--nproc_per_node", "2", "--config", "llama3_2/1B_full")
    assert done.returncode == 2 and "put it before the recipe" in done.stderr


@pytest.fixture
def started(monkeypatch):
    """What was started, instead of starting it: (torchrun options, file, arguments)."""
    calls = []
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "TUNE_LOG_DIR", "TUNE_ALLOW_COMPONENTS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("torchtune.cli._launch.launch", lambda *call: calls.append(call) or 0)
    monkeypatch.setattr(run_module, "run_here", lambda *call: calls.append(([], *call)))
    return calls


SHIPPED = recipes_root() / "configs"


@pytest.mark.parametrize(
    "given, options, config, words",
    [
        (
            "--nnodes 1 --nproc_per_node 4 --config alpaca_llama2_full_finetune",
            ["--nnodes", "1", "--nproc_per_node", "4"],
            "alpaca_llama2_full_finetune",
            [],
        ),
        ("run --config alpaca_llama2_full_finetune epochs=1", [], "alpaca_llama2_full_finetune", ["epochs=1"]),
        (
            "run --nproc-per-node=2 full_finetune_single_device --config configs/alpaca_llama2_full_finetune.yaml",
            ["--nproc-per-node=2"],
            "alpaca_llama2_full_finetune",
            [],
        ),
    ],
)
def test_what_a_command_line_starts(folder, started, given, options, config, words):
    try:
        main(given.split())
    except SystemExit as stop:
        assert stop.code == 0
    arguments = ["--config", str(SHIPPED / f"{config}.yaml"), *words]
    assert started == [(options, recipes_root() / "finetune.py", arguments)]
    assert os.environ["TUNE_LOG_DIR"] == "/tmp/alpaca-llama2-finetune/logs"


def test_a_recipe_named_only_on_the_command_line_is_passed_on(folder, started):
    text = (SHIPPED / "llama3/8B_lora.yaml").read_text().replace("recipe: ", "# recipe: ")
    (folder / "old.yaml").write_text(text)
    main("run lora_finetune_single_device --config old.yaml epochs=2".split())
    arguments = ["--config", "old.yaml", "epochs=2", "recipe=lora_finetune_single_device"]
    assert started == [([], recipes_root() / "finetune.py", arguments)]


def test_one_recipe_serves_both_layouts_with_a_note(folder, started, capsys):
    main("run full_finetune_distributed --config alpaca_llama2_full_finetune".split())
    assert "runs in one process" in capsys.readouterr().err


def test_faults_of_a_config_are_said_before_anything_starts(folder, started, capsys):
    with pytest.raises(SystemExit) as stop:
        main("run --nproc_per_node 2 --config alpaca_llama2_full_finetune batch_sise=3 epochs=x".split())
    said = capsys.readouterr().err
    assert stop.value.code == 2 and not started
    assert "Did you mean 'batch_size'" in said and "epochs must be" in said


def test_a_local_config_that_names_no_recipe(folder, started, capsys):
    (folder / "mine.yaml").write_text("batch_size: 3")
    with pytest.raises(SystemExit) as stop:
        main("run --config mine.yaml".split())
    assert stop.value.code == 2 and "Which recipe is mine.yaml for?" in capsys.readouterr().err


def test_a_local_recipe_takes_any_keys_but_no_unsafe_component(folder, started, capsys):
    (folder / "mine.yaml").write_text("my_key: 3\nthing:\n  _component_: os.system\n  command: ls\n")
    with pytest.raises(SystemExit) as stop:
        main("run my-recipe.py --config mine.yaml".split())
    assert stop.value.code == 2 and "mine.yaml:3" in capsys.readouterr().err
    (folder / "mine.yaml").write_text("my_key: 3")
    main("run my-recipe.py --config mine.yaml my_key=4".split())
    assert started == [([], Path("my-recipe.py"), ["--config", "mine.yaml", "my_key=4"])]


def test_help_names_torchruns_options(capsys):
    run_module.run(["--help"])
    text = capsys.readouterr().out
    assert "usage: tune run" in text and "--nproc-per-node" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run --config demo full_finetune_single_device", "full_finetune_single_device is a recipe: put it before"),
        ("run full_finetune_single_device demo", "needs --config CONFIG, for example --config demo"),
        ("run full_finetune_single_device config=demo", "needs --config CONFIG, for example --config demo"),
        ("run demo", "demo is a config and no recipe: tune run --config demo"),
        ("run my.yaml", "my.yaml is a config and no recipe: tune run --config my.yaml"),
        ("data --config demo", "unrecognized arguments: --config; the config stands there without it"),
        ("validate --config demo", "as in `tune validate demo`"),
        ("cat --config demo", "as in `tune cat demo`"),
    ],
)
def test_words_in_the_wrong_place(folder, capsys, words, said):
    (folder / "my.yaml").write_text("seed: 1")
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2 and said in capsys.readouterr().err
