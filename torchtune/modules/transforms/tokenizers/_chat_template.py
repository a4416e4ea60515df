"""A model's own Jinja chat template, rendered without letting it touch anything (it comes with downloaded weights)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from traceback import format_exception_only, walk_tb
from typing import Any

from torchtune.errors import ConfigError, DataError
from torchtune.modules.transforms.tokenizers._files import kind_of, read_json

Span = tuple[int, int]  # characters from, to

_JINJA = re.compile(r"\{[{%#]")


def find_chat_template(folder: Path, tokenizer_config: Mapping[str, Any] | None = None) -> str | None:
    """The template's source, from the first of ``chat_template.jinja``, ``chat_template.json`` and the config.

    Where several are listed by name, it is the one called ``default``.

    Args:
        tokenizer_config: None reads ``tokenizer_config.json``, if there is one.
    """
    if tokenizer_config is None:
        file = folder / "tokenizer_config.json"
        tokenizer_config = read_json(file, "a tokenizer_config.json") if file.is_file() else {}
    if (folder / "chat_template.jinja").is_file():
        return _read(folder / "chat_template.jinja")
    found = tokenizer_config.get("chat_template")
    if (folder / "chat_template.json").is_file():
        found = read_json(folder / "chat_template.json", "a chat_template.json").get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found


def template_source(given: str | Path) -> str:
    """The source of a template that a user names: by a Jinja file, by the folder of a model, or in full.

    Raises:
        ConfigError: it is none of these.
    """
    if _JINJA.search(str(given)):
        return str(given)
    path = Path(given).expanduser()
    if os.path.isdir(path):  # which takes any text, however long
        source = find_chat_template(path)
    else:
        source = _read(path) if os.path.isfile(path) and path.suffix != ".json" else None
    if not source:
        raise ConfigError(
            f"chat_template {str(given)[:200]} is neither a Jinja file nor a folder that has a chat template; nor is "
            "it a template, which has {{ or {% in it"
        )
    return source


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected a chat template in UTF-8, found {kind_of(path)}: {error}") from error


class ChatTemplate:
    """A template with what the ones on the Hub expect: ``raise_exception``, ``strftime_now``, ``tojson`` without HTML
    escapes, loop controls, ``{% generation %}``
    (https://huggingface.co/docs/transformers/chat_templating_writing).

    Args:
        today: what ``strftime_now`` writes; None is the clock's time.

    Raises:
        DataError: the source is not a Jinja template.
    """

    def __init__(self, source: str, today: date | None = None) -> None:
        from jinja2 import TemplateSyntaxError

        from torchtune.modules.transforms.tokenizers._sandbox import Sandbox

        self.source, self._today = source, today
        self._sandbox = Sandbox()
        self._sandbox.filters["tojson"] = _to_json
        self._sandbox.globals["raise_exception"] = _raise_exception
        self._sandbox.globals["strftime_now"] = lambda pattern: (today or datetime.now()).strftime(pattern)
        try:
            self._template = self._sandbox.compiled(source)
        except TemplateSyntaxError as error:
            raise DataError(f"the chat template does not parse: line {error.lineno}: {error.message}") from error
        except Exception as error:  # of Jinja or Python, for what is nested too deep
            raise DataError(f"the chat template does not parse: {_named(error)}") from error

    def __reduce__(self) -> tuple[type, tuple]:
        return ChatTemplate, (self.source, self._today)  # compiled code does not pickle

    @property
    def has_marks(self) -> bool:
        """Whether there is a part in it that says what the model writes."""
        return self._sandbox.has_marks

    def render(self, **variables: Any) -> tuple[str, list[Span]]:
        """The dialogue as text, and where in it the template marks what the model writes.

        Raises:
            DataError: the template refuses the dialogue, asks for what the sandbox forbids, or fails.
        """
        try:
            return self._sandbox.rendered(self._template, variables)
        except Exception as error:  # there is none that a template cannot raise
            roles = [message["role"] for message in variables["messages"]]
            raise DataError(f"the chat template {_fault(error, roles)}") from error


def _fault(error: Exception, roles: list[str]) -> str:
    """What the template does to a dialogue, where, and why."""
    from jinja2 import TemplateError

    why = str(error) if isinstance(error, TemplateError) else _named(error)
    if type(error) is TemplateError:  # raise_exception
        return f"refuses a dialogue with the roles {roles}: {why}"
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    where = f" in line {lines[-1]}," if lines else ""
    return f"fails{where} on a dialogue with the roles {roles}: {why}"


def _named(error: Exception) -> str:
    return format_exception_only(error)[-1].strip()


def _raise_exception(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
