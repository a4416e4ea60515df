"""Messages in the form that chat templates take (https://huggingface.co/docs/transformers/chat_templating)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers._utils import text_of, without_lone_surrogates

if TYPE_CHECKING:
    from torchtune.data import Message

Row = Mapping[str, Any]

PLACE = "\ufdd2"  # stands for a text; a noncharacter, which no text holds
THOUGHTS = ("reasoning_content", "thinking")  # what templates call those before an answer


@dataclass(frozen=True)
class Written:
    """What a template writes of an answer besides its text, so that nothing is left out without a word.

    Args:
        beside_calls: what ``content`` may be where the answer is ``tool_calls``; none where those are not written.
        thoughts: the keys of thoughts.
    """

    beside_calls: tuple[str | None, ...]
    thoughts: tuple[str, ...]


def find_written(render: Callable[[list[Row]], str]) -> Written:
    """What a template writes, seen by trying.

    Args:
        render: the text of a dialogue; empty where the template refuses it.
    """
    call = {"id": "000000000", "type": "function", "function": {"name": PLACE, "arguments": {}}}
    with_call = {content: {"content": content, "tool_calls": [call]} for content in ("", None)}
    with_thoughts = {key: {"content": "a", key: PLACE} for key in THOUGHTS}

    def writes(answer: Row) -> bool:
        return PLACE in render([{"role": "user", "content": "a"}, {"role": "assistant", **answer}])

    found = (tuple(key for key, answer in kind.items() if writes(answer)) for kind in (with_call, with_thoughts))
    return Written(*found)


def template_rows(messages: Sequence[Message], written: Written) -> list[Row]:
    """The messages as mappings with ``role``, ``content`` and what else they have.

    A text that is a tool call (``ipython``) and is written as JSON becomes ``tool_calls`` where the template writes
    such, in the way of its model; one that is written otherwise stays as it is.

    Raises:
        DataError: a message has something that the template does not write, or is no text.
    """
    rows: list[Row] = []
    open_ids: list[str] = []
    for number, message in enumerate(messages):
        row = _row(message, number, written)
        if calls := row.get("tool_calls"):
            open_ids = [call["id"] for call in calls]
        elif row["role"] == "tool" and open_ids:
            row = {"tool_call_id": open_ids.pop(0), **row}
        rows.append(row)
    return rows


def _row(message: Message, number: int, written: Written) -> Row:
    row: dict[str, Any] = {"role": "tool" if message.role == "ipython" else message.role}
    given = {"name": message.name, "tool_call_id": message.tool_call_id}
    row |= {key: value for key, value in given.items() if value is not None}
    row |= {_key_of(p["type"], written): p["content"] for p in message.content if p["type"] in THOUGHTS}
    text = _clean("".join(text_of(p) for p in message.content if p["type"] not in (*THOUGHTS, "tool_call")))
    functions = message.tool_calls
    if message.ipython and not functions and written.beside_calls:
        functions = _functions(text)
        text = "" if functions else text
    if not functions:
        return row | {"content": text}
    if not written.beside_calls:
        raise DataError("a message calls a tool, and the chat template does not write tool calls")
    return row | {"content": text or written.beside_calls[0], "tool_calls": _calls(functions, number)}


def _key_of(thoughts: str, written: Written) -> str:
    if not written.thoughts:
        raise DataError(
            f"a message has {thoughts}, which the chat template does not write; put the thoughts into the content, in "
            "the way of the model"
        )
    return thoughts if thoughts in written.thoughts else written.thoughts[0]


def _clean(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return without_lone_surrogates(text)
    return text


def _calls(functions: Sequence[Mapping[str, Any]], number: int) -> list[dict[str, Any]]:
    """Calls in the form of OpenAI; ids that are made are nine letters or digits, as Mistral's templates want them."""
    return [
        {
            "id": function.get("id") or f"{number:05}{i:04}",
            "type": "function",
            "function": {"name": function["name"], "arguments": function["arguments"]},
        }
        for i, function in enumerate(functions)
    ]


def _functions(text: str) -> list[dict[str, Any]]:
    """The calls in a text such as ``{"name": "f", "arguments": {"x": 1}}``, or a list of such; none in another text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, a number with thousands of digits, lists in lists in lists
        return []
    functions = [_function(call) for call in (found if isinstance(found, list) else [found])]
    return functions if all(functions) else []


def _function(call: Any) -> dict[str, Any] | None:
    """Name and arguments, which Llama calls parameters and OpenAI puts under ``function``."""
    call = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or "name" not in call:
        return None
    return {"name": call["name"], "arguments": call.get("arguments", call.get("parameters", {}))}
