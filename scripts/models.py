"""Writes the generated tables of docs/models.md from the families and from the models that they are proven on.

Run it from the repository root after adding a family or a case: ``python scripts/models.py``
"""

import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models.md"
sys.path.append(str(ROOT / "tests"))

from family_cases import Case, all_cases  # noqa: E402 (it lies among the tests)

# Modules of torchtune.models with the sizes of a family, by the name of its file of cases.
MODULES = {
    "llama": ("llama2", "code_llama2", "llama3", "llama3_1", "llama3_2", "llama3_3"),
    "qwen2": ("qwen2", "qwen2_5"),
}


def by_family() -> dict[str, list[Case]]:
    """The cases of each file."""
    found: dict[str, list[Case]] = {}
    for name, case in all_cases().items():
        found.setdefault(name.partition("/")[0], []).append(case)
    return found


def models() -> str:
    """Each module of models: its sizes, and how a config.json and our configs name it."""
    from torchtune.models._families import _BY_HF_MODEL_TYPE, _BY_MODEL_TYPE

    head = "| Models | Builders below `torchtune.models` | `model_type` in config.json | in our configs |"
    rows = [head, "|---|---|---|---|"]
    for file, cases in by_family().items():
        types = list(dict.fromkeys(case.model_type for case in cases))
        places = {_BY_HF_MODEL_TYPE[name] for name in types}
        ours = [name for name, place in _BY_MODEL_TYPE.items() if place in places]
        for name in MODULES.get(file, (file,)):
            module = import_module(f"torchtune.models.{name}")
            sizes = [f"{name}.{size}" for size in _sizes(module)]
            rows.append(f"| {_title(module)} | {_code(sizes)} | {_code(types)} | {_code(ours)} |")
    return "\n".join(rows)


def _code(words: list[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _sizes(module: ModuleType) -> list[str]:
    """Builders of one size that train all parameters."""
    names = [name for name in module.__all__ if re.search(r"\d+(_\d+)?[bm](_|$)|mini|maverick|scout", name)]
    return [name for name in names if not re.search(r"lora_|[tT]okenizer|_to_", name)]


def _title(module: ModuleType) -> str:
    first = module.__doc__.strip().replace("\n", " ")
    return re.split(r"[.(:] |\.$|, some of| \(http", first)[0].strip()


def proofs() -> str:
    """What each family's tiny models show."""
    rows = ["| Family | Models compared, each a few thousand weights |", "|---|---|"]
    for file, cases in by_family().items():
        rows.append(f"| {file} | {'; '.join(case.shows for case in cases)} |")
    return "\n".join(rows)


def render(page: str) -> str:
    """The page with its tables made anew; each stands between a pair of comments with its name."""
    for name, write in (("models", models), ("proofs", proofs)):
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        text = f"{begin}\n\n{write()}\n\n{end}"
        page = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, text=text: text, page, flags=re.S)
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
