"""torchtune's configs are here: every name, with torchtune's values but for those that the guide lists.

``torchtune_configs.csv`` has what they say in version 0.6.1, and for those that only its main branch has what they say
there; a column is a dotted key, and an empty cell is a key that the file leaves out.
"""

import csv
import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from torchtune import config
from torchtune.cli import catalog, main

HERE = Path(__file__).parent
THEIRS = {row.pop("config"): row for row in csv.DictReader((HERE / "torchtune_configs.csv").read_text().splitlines())}
# Names that are not here, and why.
EXCEPTED = {
    "llama3_2_vision/*": "a model that reads pictures",
    "llama4/*": "likewise, an EarlyFusionModel",
    "dev/3B_grpo_sft": "torchtune lists the name and has no such file",
}
GUIDE = (HERE.parents[1] / "docs/configs.md").read_text()
# Rows of the guide's table: patterns of names, a key, torchtune's value and ours.
DIFFERENCES = re.findall(r"^\| (`[^|]+`) \| `([\w.]+)` \| `(.+?)` \| (`.+?`|left out) \| .+ \|$", GUIDE, re.MULTILINE)


def _excepted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in EXCEPTED)


@cache
def _ours(name: str) -> dict[str, str]:
    cfg = config.load(catalog.find_config(name).path).cfg
    return {key: _text(OmegaConf.select(cfg, key)) for key in THEIRS[name]}


def _text(value: Any) -> str:
    """As the table has it; numbers in one form."""
    words = " ".join(map(str, value)) if OmegaConf.is_list(value) else str(value).removeprefix("torchtune.")
    try:
        return str(float(words))
    except ValueError:
        return words


def _differs(name: str, key: str) -> bool:
    theirs = THEIRS[name][key]
    return theirs != "" and _text(theirs) != _ours(name)[key]


def _listed(patterns: str, name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in re.findall(r"`(.+?)`", patterns))


def test_the_list_shows_every_name_for_the_methods_that_are_here(capsys):
    main(["ls"])
    recipe, shown = "", set()
    for line in capsys.readouterr().out.splitlines()[1:]:
        recipe, name = line[:40].strip() or recipe, line[40:].strip()
        shown.add((recipe, name))
    wanted = {(row["recipe"], name) for name, row in THEIRS.items() if not _excepted(name)}
    assert len(wanted) > 140 and wanted <= shown
    assert not any(_excepted(name) for _, name in shown)


@pytest.mark.parametrize("name", [name for name in THEIRS if not _excepted(name)])
def test_the_values_are_torchtunes_but_for_those_that_the_guide_lists(name):
    listed = {key for patterns, key, *_ in DIFFERENCES if _listed(patterns, name)}
    assert {key for key in THEIRS[name] if _differs(name, key)} == listed & {k for k, v in THEIRS[name].items() if v}


@pytest.mark.parametrize("patterns, key, theirs, here", DIFFERENCES)
def test_what_the_guide_says_of_a_difference_is_so(patterns, key, theirs, here):
    names = [name for name in THEIRS if _listed(patterns, name) and THEIRS[name].get(key)]
    assert names
    for name in names:
        assert fnmatch(_without_package(THEIRS[name][key]), theirs)
        assert fnmatch(_without_package(_ours(name)[key]), "None" if here == "left out" else _text(here.strip("`")))


def _without_package(value: str) -> str:
    return value.removeprefix("models.")


@pytest.mark.parametrize("name", ["gemma2/9B_qlora_single_device", "phi4/evaluation", "qwen3/0.6B_full"])
def test_one_of_them_is_shown_copied_and_checked(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["cat", name])
    assert f"recipe: {catalog.find_config(name).row.recipe}" in capsys.readouterr().out
    main(["cp", name, "mine.yaml"])
    assert (tmp_path / "mine.yaml").read_text() == catalog.find_config(name).path.read_text()
    main(["validate", "mine.yaml", "batch_size=3"])
    assert "Config is well-formed!" in capsys.readouterr().out
