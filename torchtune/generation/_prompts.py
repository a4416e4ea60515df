"""What a model is asked: the prompt of a config, or a file of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchtune.data import Message
from torchtune.errors import DataError

Prompt = str | list[Message]
"""Text for the model to continue, or a dialogue for it to answer."""


def as_prompt(prompt: str | Mapping[str, Any]) -> Prompt:
    """A config's ``prompt``: text stays text, ``user`` and ``system`` become messages.

    Args:
        prompt: as in a config; without ``user`` (or null) there is nothing to answer.
    """
    if isinstance(prompt, str):
        return prompt
    given = [(role, prompt.get(role)) for role in ("system", "user")]
    return [Message(role, text) for role, text in given if text is not None]


def read_prompts(path: str | Path, system: str | None = None) -> list[dict[str, str]]:
    """The prompts in a file, each with ``user`` and, if there is one, ``system``.

    Args:
        path: lines of text, each a user's message, or, where the name ends in ``.jsonl``, JSON objects; empty lines
            are passed over.
        system: where a line has none of its own.

    Raises:
        DataError: the file cannot be read, has no prompt, or a line is not of that form; the message has its number.
    """
    path = Path(path).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # JSON may hold other line ends within a text
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"cannot read prompts from {path}: {getattr(e, 'strerror', None) or e}") from e
    given = {number: line for number, line in enumerate(lines, 1) if line.strip()}
    in_json = path.suffix == ".jsonl"
    rows = [_json_row(f"{path}, line {n}", line) if in_json else {"user": line} for n, line in given.items()]
    if not rows:
        raise DataError(f"{path} has no prompt: it is empty")
    common = {} if system is None else {"system": system}
    return [common | row for row in rows]


def _json_row(where: str, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as e:
        raise DataError(f"{where} is not JSON: {e.msg}") from e
    texts = isinstance(row, dict) and all(isinstance(row.get(key, ""), str) for key in ("user", "system"))
    if not texts or "user" not in row:
        raise DataError(f"{where} must be an object with the text `user`, and perhaps `system`")
    return {key: row[key] for key in ("system", "user") if key in row}
