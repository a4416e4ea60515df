"""A model's own Jinja chat template, rendered without letting it touch anything (it comes with downloaded weights)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers._files import read_json

if TYPE_CHECKING:
    from jinja2 import Template

Span = tuple[int, int]  # characters from, to
# Noncharacters, which no text holds (https://www.unicode.org/faq/private_use.html#nonchar4), round a plain word.
_BEGIN, _END = "\ufdd0generation\ufdd0", "\ufdd1generation\ufdd1"
_EITHER = re.compile(f"({_BEGIN}|{_END})")


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
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    found = tokenizer_config.get("chat_template")
    if (folder / "chat_template.json").is_file():
        found = read_json(folder / "chat_template.json", "a chat_template.json").get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found


def compile_chat_template(source: str, today: date | None = None) -> Template:
    """The template with what the ones on the Hub expect: ``raise_exception``, ``strftime_now``, ``tojson`` without
    HTML escapes, loop controls, ``{% generation %}``
    (https://huggingface.co/docs/transformers/chat_templating_writing).

    Args:
        today: what ``strftime_now`` writes; None is the clock's time.

    Raises:
        DataError: the source is not a Jinja template.
    """
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Puts marks round what the model writes, which :func:`render_chat_template` takes out."""

        tags = {"generation"}

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Any) -> str:
            return f"{_BEGIN}{caller()}{_END}"

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: (today or datetime.now()).strftime(pattern)
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise DataError(f"the chat template does not parse: line {error.lineno}: {error.message}") from error


def render_chat_template(template: Template, **variables: Any) -> tuple[str, list[Span]]:
    """The dialogue as text, and where in it the template marks what the model writes.

    Raises:
        DataError: the template refuses the dialogue, or asks for what the sandbox forbids.
    """
    from jinja2 import TemplateError

    try:
        return _without_marks(template.render(**variables))
    except (TemplateError, TypeError) as error:
        roles = [message["role"] for message in variables["messages"]]
        raise DataError(f"the chat template refuses a dialogue with the roles {roles}: {error}") from error


def _without_marks(rendered: str) -> tuple[str, list[Span]]:
    text, begins, spans = "", [], []
    for piece in _EITHER.split(rendered):
        if piece == _BEGIN:
            begins.append(len(text))
        elif piece == _END:
            spans.append((begins.pop(), len(text)))
        else:
            text += piece
    return text, spans


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
