"""What kind of file a path is, so that a wrong tokenizer file gets one clear message."""

import json
import re
from pathlib import Path
from typing import Any

from torchtune.errors import ConfigError, DataError

TIKTOKEN = "a tiktoken file (lines of base64 text and a rank, as Llama 3 has)"
SENTENCEPIECE = "a sentencepiece model (as Llama 2 and Mistral have)"
JSON = "a JSON file (such as tokenizer.json)"
LFS_POINTER = "a Git LFS pointer, not the file it stands for; fetch it with `git lfs pull` or `tune download`"

_TOKENIZER_NAMES = ("tokenizer.model", "original/tokenizer.model", "tokenizer.json")
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


def require_file(path: str | Path, expected: str) -> Path:
    """The path, once it is known to be a file with something in it.

    Raises:
        ConfigError: there is no such file, or it is a folder.
        DataError: it is empty, or a Git LFS pointer.
    """
    path = Path(path)
    if path.is_dir():
        inside = [str(path / name) for name in _TOKENIZER_NAMES if (path / name).is_file()]
        hint = f"perhaps {' or '.join(inside)}?" if inside else "it holds no tokenizer file either"
        raise ConfigError(f"{path} is a folder; expected {expected}: {hint}")
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; expected {expected}. `tune download` fetches it with the model")
    if kind_of(path) in ("an empty file", LFS_POINTER):
        raise wrong_kind(path, expected)
    return path


def wrong_kind(path: str | Path, expected: str) -> DataError:
    """The error that says what was found at ``path`` in place of ``expected``."""
    return DataError(f"{path}: expected {expected}, found {kind_of(path)}")


def kind_of(path: str | Path) -> str:
    """The kind of a file, read from its first bytes."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return LFS_POINTER
    if head.lstrip().startswith(b"{"):
        return JSON
    if _TIKTOKEN_LINE.match(head):
        return TIKTOKEN
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page (a download that went wrong?)"
    if head.startswith(b"\x0a") and b"<unk>" in head:  # field 1 of the ModelProto: its pieces, the unknown one early
        return SENTENCEPIECE
    return f"bytes of another kind ({head[:16]!r}...)"


def read_json(path: str | Path, expected: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ConfigError: there is no such file.
        DataError: the file holds something else.
    """
    file = require_file(path, expected)
    try:
        content = json.loads(file.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: expected {expected}, found {kind_of(path)} that does not parse: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected {expected}, found a JSON {type(content).__name__}")
    return content
