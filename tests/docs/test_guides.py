"""Every command of the guides and of the README, run at small size in the order in which a reader meets them.

A block whose reader needs more than any machine has says so in a comment, and is run in the form that ``_REDUCED``
gives it. All others are run as they stand, but for the folder /tmp, which is the test's own.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from guide_blocks import Block, blocks
from omegaconf import OmegaConf
from small_models import (
    BUILDER,
    generation_of,
    hugging_face_folder,
    leaves,
    local_task,
    meta_folder,
    tokenizer_file,
    vocab_size,
)
from tiny_run import make_rows

REPO = Path(__file__).parents[2]
sys.path.append(str(REPO / "tests" / "cli"))

from hub_imitation import Repo, serve  # noqa: E402

TOKEN = "hf_goodgoodgoodgoodgoodgood"
GUIDES = [*sorted((REPO / "docs").glob("*.md")), REPO / "README.md", REPO / "SECURITY.md"]
RUNNABLE = {page: [b for b in blocks(page) if b.language in ("bash", "python", "yaml")] for page in GUIDES}
# What a piece of YAML on a page is put into; the second where it gives the model adapters.
BASE, ADAPTER_BASE = "llama3_2/1B_full_single_device", "llama3_2/1B_lora_single_device"
_META = {"meta-llama/Llama-2-7b"}  # on the Hub in Meta's own layout


class Reader:
    """Somebody who follows one page from its top; hub and models are small ones on this machine."""

    def __init__(self, home: Path, endpoint: str, hub: object) -> None:
        self.tmp, self.work, self.hub = home / "tmp", home / "work", hub
        for folder in (self.tmp, self.work, home / "bin"):
            folder.mkdir()
        command = home / "bin" / "tune"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m torchtune.cli "$@"\n')
        command.chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TUNE_"))}
        path = f"{home / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = {**kept, "PATH": path, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
        self.env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "HF_TOKEN": TOKEN}
        self.env["HF_HUB_DISABLE_XET"] = "1"  # the small hub stores large files as Git LFS does
        self.output = ""

    def here(self, text: str) -> str:
        """The text with the reader's own /tmp, where it does not have that already."""
        return re.sub(rf"(?<![\w/])(?!{re.escape(str(self.tmp))})/tmp/", f"{self.tmp}/", text)

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        if block.language == "yaml":
            return self._keep(block)
        if block.file:
            return (self.work / block.file).write_text(self.here(block.text))
        if block.language == "python" and block.needs:
            return compile(block.text, f"{block.page.name}:{block.line}", "exec")
        if block.language == "python":
            return self._run(block, [sys.executable, "-c", self.here(block.text)])
        self.output = ""
        for command in block.commands:
            for runnable in _REDUCED[block.needs](self, command):
                self._run(block, ["bash", "-euo", "pipefail", "-c", runnable])

    def _run(self, block: Block, command: list[str]) -> None:
        env = dict(self.env)
        if block.language == "python":
            env["HF_HUB_OFFLINE"] = "1"
        done = subprocess.run(command, cwd=self.work, env=env, capture_output=True, text=True, timeout=120)
        self.output += done.stdout + done.stderr
        where = f"{block.page.name}:{block.line}: {command[-1]}"
        assert done.returncode == block.fails, f"{where}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"

    def _keep(self, block: Block) -> None:
        """A whole config is saved; a piece of one is put into a config that ships. Both must be well-formed."""
        content = yaml.safe_load(block.text)
        name = block.file or "piece.yaml"
        if block.file is None:
            base = ADAPTER_BASE if "lora" in block.text else BASE
            content = {**yaml.safe_load((REPO / "recipes" / "configs" / f"{base}.yaml").read_text()), **content}
        text = self.here(block.text if block.file else yaml.safe_dump(content))
        (self.work / name).write_text(text)
        if "task" in content:
            return  # no config, but a task of lm_eval
        recipe = content.get("recipe", "full_finetune_distributed")
        check = f"tune validate {name} --recipe {recipe}"
        self._run(Block(block.page, block.line, "bash", check, fails=block.fails), ["bash", "-c", check])


def _as_it_stands(reader: Reader, command: str) -> Iterator[str]:
    yield reader.here(command)


def _from_the_hub(reader: Reader, command: str) -> Iterator[str]:
    """The same command; the hub has a small model of that name."""
    name = next(word for word in shlex.split(command)[2:] if "/" in word)
    folder = reader.tmp.parent / "hub" / name.rpartition("/")[2]
    if not folder.exists():
        (meta_folder if name in _META else hugging_face_folder)(folder)
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    reader.hub.repos[name] = Repo(files, gated=True, readers=(TOKEN,))
    yield reader.here(command)


def _small(reader: Reader, command: str) -> Iterator[str]:
    """The same command for two processes at most, on the CPU, a small model, few rows and three steps."""
    words = shlex.split(reader.here(command))
    name = words[words.index("--config") + 1]
    path = reader.work / name if (reader.work / name).is_file() else REPO / "recipes" / "configs" / f"{name}.yaml"
    path = path if path.is_file() else REPO / name
    config = yaml.safe_load(path.read_text())
    given = {word.partition("=")[0] for word in words}
    if "model" in given:  # which is made small as well
        config["model"] = next(word for word in words if word.startswith("model=")).removeprefix("model=")
        given.remove("model")
    settings = _overrides(reader, config)
    given |= {"quantizer.groupsize"} if "quantizer" in given else set()
    words += [f"{key}={value}" for key, value in settings.items() if key not in given]
    if "--nproc_per_node" in words:
        words[words.index("--nproc_per_node") + 1] = "2"
    yield shlex.join(words)


def _overrides(reader: Reader, config: dict) -> dict[str, object]:
    paths = {k: reader.here(v) for k, v in leaves(config).items() if isinstance(v, str) and v.startswith("/tmp/")}
    model = leaves(config)["model._component_" if isinstance(config["model"], dict) else "model"]
    family = model.rpartition(".")[0] or f"torchtune.models.{model.rpartition('_')[0]}"
    name, builder = family.rpartition(".")[2], model.rpartition(".")[2]
    adapted = "lora_" in builder
    _provide(reader, config, name)
    settings = dict(paths)
    if "checkpoint_dir" not in config["model"]:  # else the folder says what the model is
        settings |= {"model": f"{family}.{'lora_' * adapted}{name}", "model.vocab_size": vocab_size(name)}
        settings |= {f"model.{key}": value for key, value in BUILDER.items()}
    if adapted:
        settings |= {"model.lora_rank": 4, "model.quantize_base": builder.startswith("qlora_")}
    settings["device"] = "cpu"
    if "quantizer.groupsize" in leaves(config):
        settings["quantizer.groupsize"] = BUILDER["embed_dim"]
    if "max_new_tokens" in config:
        settings["max_new_tokens"] = 8
    if "tasks" in config:  # whose data would be downloaded
        settings |= {"tasks": "[texts]", "include_path": local_task(reader.tmp / "tasks")}
    if "dataset" not in config:
        return settings
    rows = reader.tmp / "rows.jsonl"
    make_rows(rows, 24, seed=0)
    settings |= {"dataset.source": "json", "dataset.data_files": rows, "max_steps_per_epoch": 3}
    settings["gradient_accumulation_steps"] = 1
    if "bitsandbytes" in str(config.get("optimizer")):
        settings["optimizer"] = "torch.optim.AdamW"
    return settings


def _provide(reader: Reader, config: dict, model: str) -> None:
    """The model's folder and tokenizer, where an earlier block of the page has not downloaded them."""
    config = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    checkpointer = config.get("checkpointer", {"checkpoint_dir": config.get("model_checkpoint")})
    folder = Path(reader.here(checkpointer["checkpoint_dir"]))
    if not folder.exists():
        is_meta = "FullModelMeta" in str(checkpointer) and folder.name != "original"
        (meta_folder if is_meta else hugging_face_folder)(folder.parent if folder.name == "original" else folder)
    if "quantizer" in config and "tokenizer" not in config:
        return
    tokenizer = config["tokenizer"]
    path = Path(reader.here(tokenizer["path"] if isinstance(tokenizer, dict) else config["tokenizer_checkpoint"]))
    if not path.exists():
        path.write_bytes(tokenizer_file(generation_of(model)).read_bytes())


def _installs(reader: Reader, command: str) -> Iterator[str]:
    """Nothing is run (.ci/run installs): what is installed must be this package, or one that the message names."""
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"\.\[(\w+)\]", command)
    assert set(named) <= extras.keys(), command
    assert "pip install" in command or command.startswith(("git clone", "cd ")), command
    yield from ()


def _shows_help(reader: Reader, command: str) -> Iterator[str]:
    """A benchmark takes minutes: it must exist and know the options that the page gives it."""
    program, script, *words = shlex.split(command)
    options = " ".join(f"grep -q -e {word} help.txt &&" for word in words if word.startswith("--"))
    yield f"{program} {REPO / script} --help > help.txt && {options} true"


def _names_tests(reader: Reader, command: str) -> Iterator[str]:
    """The family is the reader's own, so nothing is run; the tests that are named must be there."""
    program, path, *_ = shlex.split(command)
    assert program == "pytest" and (REPO / path).exists(), command
    yield from ()


_REDUCED = {
    None: _as_it_stands,
    "a download": _from_the_hub,
    "a GPU": _small,
    "GPUs": _small,
    "an install": _installs,
    "a benchmark": _shows_help,
    "a family of your own": _names_tests,
}


@pytest.fixture(scope="module")
def hub():
    with serve() as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in GUIDES if RUNNABLE[page]], ids=lambda page: page.stem)
def test_a_reader_can_follow_the_page(page, tmp_path, hub):
    reader = Reader(tmp_path, hub.endpoint, hub)
    for block in blocks(page):
        if block.is_output:
            _check_output(block, reader.output)
        elif block.file or block.language in ("bash", "python", "yaml"):
            reader.follow(block)


def _check_output(block: Block, printed: str) -> None:
    """Each line that the page shows was printed, numbers and folders aside."""
    seen = {_shape(line) for line in printed.splitlines()}
    missing = [line for line in block.text.splitlines() if line.strip() not in ("", "...") and _shape(line) not in seen]
    assert not missing, f"{block.page.name}:{block.line}: not printed: {missing}\nprinted:\n{printed}"


def _shape(line: str) -> str:
    return re.sub(r"\d[\d.,e-]*", "0", re.sub(r"\S*/", "", line)).strip()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_shell_blocks_say_that_they_are(page):
    """A command in a block of another kind would never be run."""
    for block in blocks(page):
        if block.language not in ("bash", "python", "yaml"):
            assert not re.search(r"^(\$ )?(tune|pip) ", block.text, re.MULTILINE), f"{page.name}:{block.line}"


def test_every_exit_code_is_explained():
    from torchtune import errors

    codes = {kind.exit_code for kind in errors.TuneError.__subclasses__()} | {0, 1, 130, 143}
    codes |= {errors.PEER_FAILED, errors.OUT_OF_MEMORY}
    table = (REPO / "docs" / "reliability.md").read_text()
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == codes


def test_ci_runs_both_commands_of_the_readme():
    ci = (REPO / ".ci" / "run").read_text().splitlines()
    commands = [c for block in RUNNABLE[REPO / "README.md"] for c in block.commands if c.startswith("python3 -m venv")]
    assert len(commands) == 2 and set(commands) <= set(ci)
