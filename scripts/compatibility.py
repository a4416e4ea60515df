"""Writes the generated parts of docs/compatibility.md from tests/api/later.json and tests/api/differs.json.

Run it from the repository root after changing either: ``python scripts/compatibility.py``
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "compatibility.md"


def later(topics: dict[str, dict[str, Any]]) -> str:
    """The names that come later, by topic; ``"*"`` is all of a module."""
    return "\n\n".join(f"### {topic}\n\n" + "\n".join(map(_bullet, ms.items())) for topic, ms in topics.items())


def _bullet(entry: tuple[str, Any]) -> str:
    module, names = entry
    return f"- `{module}`: " + ("everything" if names == "*" else ", ".join(f"`{name}`" for name in names))


def differs(arguments: dict[str, dict[str, str]]) -> str:
    """The arguments that differ on purpose, as a table."""
    rows = [f"| `{path}` | `{key}` | {why} |" for path, reasons in arguments.items() for key, why in reasons.items()]
    return "\n".join(["| Name | Argument or member | Reason |", "|---|---|---|", *rows])


def render(page: str) -> str:
    """The page with its generated parts made anew; each stands between a pair of comments with its file's name."""
    for name, write in (("later", later), ("differs", differs)):
        facts = json.loads((ROOT / "tests" / "api" / f"{name}.json").read_text())
        begin, end = f"<!-- {name}.json -->", f"<!-- end of {name}.json -->"
        text = f"{begin}\n\n{write(facts)}\n\n{end}"
        page = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, text=text: text, page, flags=re.S)
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
