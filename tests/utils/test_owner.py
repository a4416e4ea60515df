"""Whose code a file is."""

import json
import os
import sys
from pathlib import Path

import numpy
import pytest

import torchtune
from torchtune.utils._owner import is_ours, is_users

_ROOT = Path(torchtune.__file__).parents[1]


@pytest.mark.parametrize(
    ("file", "ours", "users"),
    [
        (torchtune.__file__, True, False),
        (str(_ROOT / "recipes" / "finetune.py"), True, False),
        (str(_ROOT / "llama_recipes" / "__init__.py"), True, False),
        (str(_ROOT / "recipes_of_mine" / "a.py"), False, True),
        (str(_ROOT / "torchtune_extra.py"), False, True),
        (__file__, False, True),
        (os.path.abspath("my_rows.py"), False, True),
        (json.__file__, False, False),
        (numpy.__file__, False, False),
        ("/home/me/.local/lib/python3.12/site-packages/a.py", False, False),
        ("/usr/lib/python3/dist-packages/a.py", False, False),
        ("<frozen runpy>", False, False),
        ("<string>", False, False),
    ],
)
def test_whose(file, ours, users):
    assert (is_ours(file), is_users(file)) == (ours, users)


def test_every_loaded_module_of_a_library_is_known_for_one():
    files = (getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if "torch." in name)
    assert not [file for file in files if file and os.path.isabs(file) and is_users(file)]
