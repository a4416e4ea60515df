"""No silent option: every key that the config types, and does not call inert or later, is read."""

import dataclasses
import re
from pathlib import Path

import pytest

from torchtune.config.schema import FinetuneConfig

ROOT = Path(__file__).parents[2]
READ_BY_THE_RECIPE = "".join(
    (ROOT / name).read_text()
    for name in ("recipes/finetune.py", "torchtune/training/data.py", "torchtune/training/setup.py")
)


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(FinetuneConfig) if not f.metadata])
def test_the_key_is_read(key):
    if key == "recipe":  # the command reads it, to know what to run
        assert '"recipe"' in (ROOT / "torchtune/cli/catalog.py").read_text()
    else:
        assert re.search(rf"\bcfg\.{key}\b", READ_BY_THE_RECIPE), f"{key} is accepted and nothing reads it"
