"""The demo's files and the questions that its model is not trained on."""

import json
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"


def held_out_rows() -> list[dict[str, str]]:
    """Questions with the answers that training should lead to: ``instruction``, ``input``, ``output``."""
    lines = (ASSETS / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
