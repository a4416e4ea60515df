"""A recipe's main as a command."""

import logging
import sys

import pytest
from omegaconf import DictConfig

from torchtune.config import parse, split_arguments
from torchtune.config.schema import FinetuneConfig
from torchtune.errors import CheckpointError, ConfigError


@parse
def typed_main(cfg: FinetuneConfig) -> FinetuneConfig:
    """Trains."""
    return cfg


@parse
def text_main(cfg: "FinetuneConfig"):
    return cfg


@parse
def raw_main(cfg: DictConfig):
    return cfg


@parse
def bare_main(cfg):
    return cfg


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["recipe.py", *words])


def test_the_annotation_decides_what_arrives(parts, monkeypatch):
    command(monkeypatch, "--config", "config.yaml", "batch_size=3", "~profiler")
    for main in (typed_main, text_main):
        cfg = main()
        assert isinstance(cfg, FinetuneConfig) and cfg.batch_size == 3 and cfg.profiler is None
    for main in (raw_main, bare_main):
        cfg = main()
        assert isinstance(cfg, DictConfig) and cfg.batch_size == 3 and "profiler" not in cfg


def test_options_may_stand_anywhere(parts, monkeypatch):
    command(monkeypatch, "batch_size=3", "--config=config.yaml", "epochs=2")
    assert (typed_main().batch_size, typed_main().epochs) == (3, 2)


def test_a_custom_recipe_has_its_own_keys_but_components_are_checked(parts, monkeypatch):
    command(monkeypatch, "--config", "config.yaml", "my_own_key=1")
    assert raw_main().my_own_key == 1
    command(monkeypatch, "--config", "config.yaml", "optimizer.lrr=1")
    with pytest.raises(ConfigError, match="lrr"):
        raw_main()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "--config FILE is missing\nusage: recipe.py --config FILE"),
        (("batch_size=3",), "--config FILE is missing"),
        (("--config",), "--config wants a value"),
        (("--config", "config.yaml", "--config", "config.yaml"), "given twice"),
        (("--config", "config.yaml", "--batch_size", "3"), "key=value"),
        (("--config", "nowhere.yaml"), "no config file nowhere.yaml"),
    ],
)
def test_wrong_command_lines(parts, monkeypatch, words, part):
    command(monkeypatch, *words)
    with pytest.raises(ConfigError) as e:
        typed_main()
    assert part in str(e.value)


def test_all_faults_are_raised_together(parts, monkeypatch):
    command(monkeypatch, "--config", "config.yaml", "epochs=0", "batchsize=2", "model.x=1")
    with pytest.raises(ConfigError) as e:
        typed_main()
    assert len(str(e.value).splitlines()) == 3


def test_help_names_the_keys(monkeypatch, capsys):
    command(monkeypatch, "--help")
    with pytest.raises(SystemExit) as e:
        typed_main()
    out = capsys.readouterr().out
    assert e.value.code == 0 and "usage: recipe.py --config FILE" in out and "Trains." in out and "batch_size" in out


def test_notes_are_logged(parts, monkeypatch, caplog):
    command(monkeypatch, "--config", "config.yaml", "low_cpu_ram=True")
    with caplog.at_level(logging.INFO):
        typed_main()
    assert "low_cpu_ram: accepted, no effect" in caplog.text


def test_errors_of_the_recipe_are_left_alone(parts, monkeypatch):
    @parse
    def main(cfg: FinetuneConfig):
        raise CheckpointError("torn")

    command(monkeypatch, "--config", "config.yaml")
    with pytest.raises(CheckpointError, match="torn"):
        main()


def test_trusted_packages_come_from_the_command_line(parts, monkeypatch):
    monkeypatch.delenv("TUNE_ALLOW_COMPONENTS", raising=False)
    monkeypatch.setenv("TUNE_ALLOW_COMPONENTS", "")
    words = ["--config", "config.yaml", "metric_logger={_component_: collections.Counter}"]
    command(monkeypatch, *words)
    with pytest.raises(ConfigError, match="allow-component collections"):
        typed_main()
    command(monkeypatch, *words, "--allow-component", "collections")
    assert typed_main().metric_logger._component_ == "collections.Counter"


def test_split_arguments():
    assert split_arguments(["a=1", "--config", "f", "--allow-component=p", "--allow-component", "q", "~x"]) == (
        "f", ["p", "q"], ["a=1", "~x"])  # fmt: skip
