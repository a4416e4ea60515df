"""Files of the package named in a config."""

from pathlib import Path

import pytest

import torchtune
from torchtune import config

PACKAGE = Path(torchtune.__file__).parent
TEXT = "model:\n  _component_: torchtune.models.llama3_2.llama3_2_1b\nlisted:\n- at ${torchtune.file:%s}!\n"


def test_a_file_of_the_package_wherever_the_config_lies():
    loaded = config.load_text(TEXT % "models/llama3_2.py", overrides=["own=${torchtune.file:models}/x"])
    assert loaded.cfg.listed == [f"at {PACKAGE}/models/llama3_2.py!"]
    assert loaded.cfg.own == f"{PACKAGE}/models/x"
    assert config.check(loaded) == []


@pytest.mark.parametrize("name", ["models/llama9.py", "../pyproject.toml", "/etc/passwd"])
def test_a_file_that_is_not_in_the_package_is_a_fault_with_its_place(name):
    (fault,) = config.check(config.load_text(TEXT % name, "mine.yaml"))
    assert str(fault).startswith(f"mine.yaml:4: listed.0: the package torchtune has no file '{name}'")
