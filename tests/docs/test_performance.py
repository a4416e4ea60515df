"""The tables of measurements in the docs are those that the committed results give."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tables_are_made_from_the_results():
    script = runpy.run_path(str(ROOT / "scripts" / "performance.py"))
    for name, (file, _) in script["TABLES"].items():
        page = (ROOT / "docs" / file).read_text()
        assert f"<!-- {name}.json -->\n\n" in page
        assert script["render"](page, name) == page, "run python scripts/performance.py"


def test_a_row_says_how_much_faster_and_smaller():
    script = runpy.run_path(str(ROOT / "scripts" / "performance.py"))
    rate = {"tokens_per_second": 400.0, "tokens_per_second_min": 390.0, "tokens_per_second_max": 410.0}
    theirs = rate | {"command_seconds": 41.4, "peak_memory_gib": 4.0}
    ours = theirs | {"tokens_per_second": 1200.0, "command_seconds": 15.0, "peak_memory_gib": 1.0}
    environment = {"processor": "P", "torch": "2", "threads": 2, "load_average_before": 0.0, "date": "2030-01-01"}
    sides = {script["THEIRS"]: theirs, script["OURS"]: ours}
    report = {
        "environment": environment,
        "steps": 3,
        "results": {"qlora": sides},
        "runs": {"qlora": {script["OURS"]: [0]}},
    }
    row = script["training"](report).splitlines()[-1]
    assert row == "| QLoRA | 400 (390 to 410) | 1,200 (390 to 410) | 3.0 times | 41 | 15 | 4.00 | 1.00 | 0.25 times |"
