"""The turns of a row's dialogue as messages, in the forms of OpenAI and ShareGPT."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torchtune.data._messages import MaskingStrategy, Message, Role, mask_messages
from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers._rows import THOUGHTS

Turn = Mapping[str, Any]

# https://github.com/lm-sys/FastChat#data has the first three; tools as in LLaMA-Factory (data/README.md).
_SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system", "human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant",
    "function_call": "assistant", "observation": "tool", "tool": "tool",
}  # fmt: skip


def dialogue(
    turns: Sequence[Turn],
    message_of: Callable[[Turn], Message],
    masking_strategy: MaskingStrategy | Sequence[Role],
    system_prompt: str | None = None,
) -> list[Message]:
    """The messages of a dialogue. What a turn itself says of whether it is trained on goes before the strategy.

    Args:
        system_prompt: replaces the dialogue's system messages, and is masked; None leaves them.

    Raises:
        DataError: a turn has not the form that is expected.
    """
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
        raise DataError(f"a dialogue is {str(turns)[:100]!r}; expected a list of turns, at least one, each an object")
    messages = [message_of(turn) for turn in turns]
    mask_messages(messages, masking_strategy)
    for turn, message in zip(turns, messages):
        said = _is_trained(turn)
        message.masked = message.masked if said is None else not said
    return messages if system_prompt is None else with_system(messages, system_prompt)


def with_system(messages: Sequence[Message], prompt: str) -> list[Message]:
    """The dialogue with this system message, masked, in place of its own."""
    return [Message("system", prompt, masked=True), *(message for message in messages if message.role != "system")]


def openai_message(turn: Turn) -> Message:
    """A turn in the form of OpenAI's chat API (https://platform.openai.com/docs/api-reference/chat/create)."""
    if turn.get("function_call"):
        raise DataError("a message has 'function_call', OpenAI's older form; write the call as 'tool_calls'")
    calls = [_tool_call(call) for call in turn.get("tool_calls") or ()]
    content = turn.get("content") or [] if calls else cell(turn, "content")
    if not isinstance(content, str | list):
        raise DataError(f"the content of a message is {content!r}; expected a text or a list of parts")
    text = [{"type": "text", "content": content}] if isinstance(content, str) else [_text_part(p) for p in content]
    thoughts = [{"type": key, "content": turn[key]} for key in THOUGHTS if turn.get(key)]
    others = {key: turn[key] for key in ("ipython", "eot", "name", "tool_call_id") if turn.get(key) is not None}
    return Message(cell(turn, "role"), [*thoughts, *text, *calls], **others)


def sharegpt_message(turn: Turn) -> Message:
    """A turn with ``from`` and ``value``; the value of a ``function_call`` is JSON with ``name`` and ``arguments``."""
    speaker, value = cell(turn, "from"), cell(turn, "value")
    if speaker not in _SHAREGPT_ROLES:
        raise DataError(f"a turn is from {speaker!r}; expected one of {', '.join(_SHAREGPT_ROLES)}")
    if speaker == "function_call":
        calls = _from_json(value, "the value of a turn from 'function_call'")
        value = [_tool_call(call) for call in (calls if isinstance(calls, list) else [calls])]
    return Message(_SHAREGPT_ROLES[speaker], value)


def tools_of(row: Mapping[str, Any], column: str | None) -> dict[str, list[Mapping[str, Any]]]:
    """The functions that a row offers to the model, as ``tools``; nothing where it offers none.

    Raises:
        DataError: the column holds something else.
    """
    tools = _from_json(row.get(column) or [], f"{column!r}")
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(
            f"{column!r} is {str(tools)[:100]!r}; expected a list of functions, each a JSON schema. If the column is "
            "something else, column_map: {tools: null} leaves it out"
        )
    return {"tools": tools} if tools else {}


def cell(row: Mapping[str, Any], column: str) -> Any:
    """What stands in a column, which must be there and have a value."""
    if column not in row:
        raise DataError(f"a row has no {column!r}; it has {', '.join(map(repr, row))} (column_map names the columns)")
    if row[column] is None:
        raise DataError(f"a row's {column!r} is empty (null)")
    return row[column]


def text_cell(row: Mapping[str, Any], column: str) -> str:
    """What stands in a column, which must be there and be a text."""
    found = cell(row, column)
    if not isinstance(found, str):
        raise DataError(f"a row's {column!r} is {str(found)[:100]!r}; expected a text")
    return found


def _is_trained(turn: Turn) -> bool | None:
    """What a turn says itself: OpenAI's ``weight``, axolotl's ``train``, or ``masked``; None where it says nothing."""
    said = {name: turn[name] for name in ("weight", "train", "masked") if turn.get(name) is not None}
    if wrong := {name: value for name, value in said.items() if value not in (0, 1)}:
        raise DataError(f"a turn has {wrong}; expected 0 or 1, or true or false")
    trained = {bool(value) != (name == "masked") for name, value in said.items()}
    if len(trained) > 1:
        raise DataError(f"a turn has {said}, which contradict each other")
    return trained.pop() if trained else None


def _tool_call(call: Any) -> dict[str, Any]:
    """A call as a part of a message; OpenAI puts name and arguments under ``function``, the latter as JSON."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not function.get("name"):
        raise DataError(f'a tool call is {str(call)[:100]}; expected {{"name": ..., "arguments": {{...}}}}')
    arguments = _from_json(function.get("arguments") or {}, f"'arguments' of the call of {function['name']!r}")
    if not isinstance(arguments, Mapping):
        raise DataError(f"'arguments' of the call of {function['name']!r} is {arguments!r}; expected names and values")
    number = {"id": call["id"]} if call.get("id") else {}
    return {"type": "tool_call", "content": {"name": function["name"], "arguments": dict(arguments), **number}}


def _from_json(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise DataError(f"{what} is no JSON ({error}): {value[:100]!r}") from error


def _text_part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") != "text":
        raise DataError(f"a message holds a part of type {part.get('type')!r}; only 'text' is supported yet")
    return {"type": "text", "content": cell(part, "content" if "content" in part else "text")}
