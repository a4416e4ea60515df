"""The tables of docs/models.md are those that the families and their cases give."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tables_are_made_from_the_families():
    script = runpy.run_path(str(ROOT / "scripts" / "models.py"))
    page = script["PAGE"].read_text()
    assert script["render"](page) == page, "run python scripts/models.py"
    assert page.count("\n| ") > 30
