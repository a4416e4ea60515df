"""The turns of a row's dialogue as messages, in the forms of OpenAI and ShareGPT."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from torchtune.data._messages import MaskingStrategy, Message, Role, mask_messages
from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers._rows import THOUGHTS

Turn = Mapping[str, Any]

_OPENAI_ROLES: dict[str, Role] = {role: role for role in get_args(Role)} | {"developer": "system"}

# https://github.com/lm-sys/FastChat#data has the first three; tools as in LLaMA-Factory (data/README.md); the last ones
# are names of models that dialogues were collected from.
_SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system", "human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant",
    "function_call": "assistant", "observation": "tool", "tool": "tool",
    "model": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant",
}  # fmt: skip


class Said(NamedTuple):
    """A message, and whether its turn itself says that it is trained on; None where it says nothing."""

    message: Message
    trained: bool | None = None


class Form(NamedTuple):
    """A way to write turns.

    Args:
        name: whose form it is
        keys: what every turn has
        message_of: makes a message of a turn
        instead: what to do where the turns turn out to be of the other form
    """

    name: str
    keys: tuple[str, str]
    message_of: Callable[[Turn], Message]
    instead: str


def read_turns(found: Any, column: str, form: Form) -> list[Said]:
    """The messages of a dialogue: a list of turns, or the same as JSON in a text.

    Raises:
        DataError: a turn has not the form that is expected; names it.
    """
    turns = _from_json(found, f"{column!r}") if isinstance(found, str) and found.lstrip().startswith("[") else found
    if not isinstance(turns, list) or not any(isinstance(turn, Mapping) for turn in turns):
        raise DataError(f"{column!r} is {shown(turns)}; expected a list of turns, at least one, each an object")
    said = []
    for number, turn in enumerate(turns, 1):
        try:
            _check_form(turn, form)
            said.append(Said(form.message_of(turn), _is_trained(turn)))
        except DataError as error:
            raise DataError(f"turn {number} of {len(turns)} in {column!r}: {error}") from error
    return said


def dialogue(
    said: Sequence[Said], masking_strategy: MaskingStrategy | Sequence[Role], system_prompt: str | None = None
) -> list[Message]:
    """The messages, masked. What a turn itself says of whether it is trained on goes before the strategy.

    Args:
        system_prompt: replaces the dialogue's system messages, and is masked; None leaves them.
    """
    messages = [message for message, _ in said]
    mask_messages(messages, masking_strategy)
    for message, trained in said:
        message.masked = message.masked if trained is None else not trained
    return messages if system_prompt is None else with_system(messages, system_prompt)


def with_system(messages: Sequence[Message], prompt: str) -> list[Message]:
    """The dialogue with this system message, masked, in place of its own."""
    return [Message("system", prompt, masked=True), *(message for message in messages if message.role != "system")]


def after_system(said: Sequence[Said], row: Mapping[str, Any], column: str | None) -> list[Said]:
    """The dialogue after the system message in a column, if there is one and the dialogue does not begin with it.

    Raises:
        DataError: the column holds no text, or the dialogue begins with another system message.
    """
    if row.get(column) in (None, ""):
        return list(said)
    leave_out = "column_map: {system: null} leaves the column out"
    if not isinstance(prompt := row[column], str):
        raise DataError(f"a row's {column!r} is {shown(prompt)}; expected a text, the system message. {leave_out}")
    first = said[0].message
    if first.role != "system":
        return [Said(Message("system", prompt)), *said]
    if first.text_content.strip() != prompt.strip():
        raise DataError(
            f"a row has two system messages, {shown(prompt)} in {column!r} and {shown(first.text_content)} in the "
            f"dialogue; {leave_out}"
        )
    return list(said)


def after_prompt(said: Sequence[Said], side: str, row: Mapping[str, Any], column: str | None) -> list[Said]:
    """An answer after the prompt in a column, if there is one and the answer does not hold it already.

    Args:
        side: the column of the answer.

    Raises:
        DataError: the column holds no dialogue or text, or the answer is a whole dialogue with another prompt.
    """
    if row.get(column) in (None, "", []):
        return list(said)
    leave_out = "column_map: {prompt: null} leaves the column out"
    found = row[column]
    if not isinstance(found, str | list):
        raise DataError(f"a row's {column!r} is {shown(found)}; expected a text or a list of turns. {leave_out}")
    prompt = [Said(Message("user", found))] if isinstance(found, str) else read_turns(found, column, PAIRS)
    wanted, there = ([_likeness(message) for message, _ in part] for part in (prompt, said))
    if any(there[i : i + len(wanted)] == wanted for i in range(len(there))):
        return list(said)
    if wanted[0][0] == "system" and there[: len(wanted) - 1] == wanted[1:]:
        return [prompt[0], *said]
    if wanted[-1][0] == "user" and there[0][0] in ("system", "user"):
        raise DataError(
            f"{side!r} begins with a message from {there[0][0]!r}, as a whole dialogue does, and {column!r}, "
            f"{shown(prompt[-1].message.text_content)}, is not in it. {leave_out}"
        )
    return [*prompt, *said]


def tools_of(row: Mapping[str, Any], column: str | None) -> dict[str, list[Mapping[str, Any]]]:
    """The functions that a row offers to the model, as ``tools``; nothing where it offers none.

    Raises:
        DataError: the column holds something else.
    """
    tools = _from_json(row.get(column) or [], f"{column!r}")
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(
            f"{column!r} is {shown(tools)}; expected a list of functions, each a JSON schema. If the column is "
            "something else, column_map: {tools: null} leaves it out"
        )
    return {"tools": tools} if tools else {}


def cell(row: Mapping[str, Any], column: str) -> Any:
    """What stands in a column, which must be there and have a value."""
    if column not in row:
        raise DataError(f"a row has no {column!r}; it has {names_in(row)} (column_map names the columns)")
    if row[column] is None:
        raise DataError(f"a row's {column!r} is empty (null)")
    return row[column]


def text_cell(row: Mapping[str, Any], column: str) -> str:
    """What stands in a column, which must be there and be a text."""
    if not isinstance(found := cell(row, column), str):
        raise DataError(f"a row's {column!r} is {shown(found)}; expected a text")
    return found


def names_in(row: Mapping[str, Any]) -> str:
    """The names of what a row or a turn has, for messages."""
    return ", ".join(map(repr, row)) or "nothing"


def _openai_message(turn: Turn) -> Message:
    """A turn in the form of OpenAI's chat API (https://platform.openai.com/docs/api-reference/chat/create)."""
    if turn.get("function_call"):
        raise DataError("it has 'function_call', OpenAI's older form; write the call as 'tool_calls'")
    found = _from_json(turn.get("tool_calls") or [], "'tool_calls'")
    if not isinstance(found, list):
        raise DataError(f"'tool_calls' is {shown(found)}; expected a list of calls")
    calls = [_tool_call(call) for call in found]
    text = _text_parts(turn.get("content") or [] if calls else _entry(turn, "content"), "content")
    thoughts = [{"type": key, "content": _text(turn, key)} for key in THOUGHTS if turn.get(key)]
    names = {key: turn[key] for key in ("name", "tool_call_id") if turn.get(key) is not None}
    return Message(_role(turn, "role", _OPENAI_ROLES), [*thoughts, *text, *calls], **_flags(turn), **names)


def _sharegpt_message(turn: Turn) -> Message:
    """A turn with ``from`` and ``value``; the value of a ``function_call`` is JSON with ``name`` and ``arguments``."""
    role, value = _role(turn, "from", _SHAREGPT_ROLES), _entry(turn, "value")
    if turn["from"].lower() == "function_call":
        calls = _from_json(value, "the value of a turn from 'function_call'")
        parts = [_tool_call(call) for call in (calls if isinstance(calls, list) else [calls])]
    else:
        parts = _text_parts(value, "value")
    return Message(role, parts, **_flags(turn))


OPENAI = Form(
    "OpenAI", ("role", "content"), _openai_message, "dataset=chat with conversation_style: sharegpt reads such turns"
)
SHAREGPT = Form(
    "ShareGPT", ("from", "value"), _sharegpt_message, "dataset=chat with conversation_style: openai reads such turns"
)
PAIRS = OPENAI._replace(instead="pairs of answers are read in no other form")
PROMPTS = OPENAI._replace(instead="a prompt and its answer are read in no other form")


def _check_form(turn: Any, form: Form) -> None:
    """Refuses a turn that is no object, and one of the other form by the name of that."""
    if not isinstance(turn, Mapping):
        raise DataError(f"it is {shown(turn)}; expected an object with {' and '.join(map(repr, form.keys))}")
    other = SHAREGPT if form.name == OPENAI.name else OPENAI
    if form.keys[0] not in turn and other.keys[0] in turn:
        raise DataError(
            f"it has {names_in(turn)}, {other.name}'s form; expected {' and '.join(map(repr, form.keys))}, "
            f"{form.name}'s: {form.instead}"
        )


def _role(turn: Turn, key: str, roles: Mapping[str, Role]) -> Role:
    speaker = _entry(turn, key)
    role = roles.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise DataError(f"{key!r} is {shown(speaker)}; expected one of {', '.join(roles)}")
    return role


def _entry(turn: Turn, key: str) -> Any:
    """What a turn has under a key, which must be there and have a value."""
    if key not in turn:
        raise DataError(f"it has no {key!r}; it has {names_in(turn)}")
    if turn[key] is None:
        raise DataError(f"{key!r} is empty (null)")
    return turn[key]


def _text(turn: Turn, key: str) -> str:
    if not isinstance(found := turn[key], str):
        raise DataError(f"{key!r} is {shown(found)}; expected a text")
    return found


def _flags(turn: Turn) -> dict[str, bool]:
    """What a turn says of its message as a whole: whether it ends the turn, and whether its text is a call."""
    said = {name: turn[name] for name in ("ipython", "eot") if turn.get(name) is not None}
    if wrong := {name: value for name, value in said.items() if value not in (0, 1)}:
        raise DataError(f"it has {shown(wrong)}; expected true or false")
    return {name: bool(value) for name, value in said.items()}


def _is_trained(turn: Turn) -> bool | None:
    """What a turn says itself: OpenAI's ``weight``, axolotl's ``train``, or ``masked``; None where it says nothing."""
    if turn.get("train_detail"):
        raise DataError("it has 'train_detail', and a message is learnt as a whole or not at all, as 'train' says")
    said = {name: turn[name] for name in ("weight", "train", "masked") if turn.get(name) is not None}
    if wrong := {name: value for name, value in said.items() if value not in (0, 1)}:
        raise DataError(f"it has {shown(wrong)}; expected 0 or 1, or true or false")
    trained = {bool(value) != (name == "masked") for name, value in said.items()}
    if len(trained) > 1:
        raise DataError(f"it has {said}, which contradict each other")
    return trained.pop() if trained else None


def _likeness(message: Message) -> tuple[str, str, list[dict[str, Any]]]:
    """Equal for messages that say the same."""
    return message.role, message.text_content.strip(), message.tool_calls


def _tool_call(call: Any) -> dict[str, Any]:
    """A call as a part of a message; OpenAI puts name and arguments under ``function``, the latter as JSON."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not function.get("name"):
        raise DataError(f'a tool call is {shown(call)}; expected {{"name": ..., "arguments": {{...}}}}')
    if not isinstance(function["name"], str):
        raise DataError(f"the 'name' of a tool call is {shown(function['name'])}; expected a text")
    what = f"'arguments' of the call of {shown(function['name'])}"
    arguments = _from_json(function.get("arguments") or {}, what)
    if not isinstance(arguments, Mapping):
        raise DataError(f"{what} is {shown(arguments)}; expected names and values")
    number = {"id": call["id"]} if call.get("id") else {}
    return {"type": "tool_call", "content": {"name": function["name"], "arguments": dict(arguments), **number}}


def _from_json(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise DataError(f"{what} is no JSON ({error}): {shown(value)}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{what} is JSON nested too deeply, or with too long a number: {shown(value)}") from error


def _text_parts(content: Any, key: str) -> list[dict[str, Any]]:
    """A text, or a list of parts of texts, as parts of a message."""
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    if not isinstance(content, list):
        raise DataError(f"{key!r} is {shown(content)}; expected a text or a list of parts")
    return [_text_part(part, key) for part in content]


def _text_part(part: Any, key: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise DataError(f'a part of {key!r} is {shown(part)}; expected {{"type": "text", "text": ...}}')
    if part.get("type") != "text":
        raise DataError(f"a part of {key!r} is of type {shown(part.get('type'))}; only 'text' is supported yet")
    found = part.get("content", part.get("text"))
    if not isinstance(found, str):
        raise DataError(f"a part of {key!r} is {shown(part)}; its 'text' must be there and be a text")
    return {"type": "text", "content": found}


def shown(value: Any) -> str:
    """A value as it may stand in a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
