"""Dialogues as Mistral's own tokenizers of each version write them (https://github.com/mistralai/mistral-common,
https://docs.mistral.ai/guides/tokenization).
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torchtune.data._messages import TOOL_ROLES, Message
from torchtune.errors import ConfigError, DataError
from torchtune.modules.transforms.tokenizers._utils import text_beside_calls

VERSIONS = {"v1": 1, "v2": 2, "v3": 3, "v7": 7, "v11": 11}

_MARKS = (
    (2, "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    (2, "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    (7, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
    (11, "[CALL_ID]", "[ARGS]"),
)
_CALLS = '[{"name": ..., "arguments": {...}, "id": ...}]'
_RESULT = '{"content": ..., "call_id": ...}'


class Control(str):
    """The name of a control token; the text of a message never becomes one."""


def version_number(name: str, special_tokens: Collection[str]) -> int:
    """Of ``v3``, 3.

    Raises:
        ConfigError: dialogues of this version are not known here, or the vocabulary lacks a control token of theirs.
    """
    if name not in VERSIONS:
        raise ConfigError(
            f"Mistral's dialogues of version {name!r} are not known here; known are {', '.join(VERSIONS)}. Where the "
            "folder has a tokenizer.json with a chat template, HuggingFaceModelTokenizer takes that"
        )
    number = VERSIONS[name]
    missing = [mark for since, *marks in _MARKS if since <= number for mark in marks if mark not in special_tokens]
    if missing:
        raise ConfigError(
            f"Mistral's dialogues of version {name} need the control tokens {', '.join(missing)}, which the vocabulary "
            "does not have; with version=auto it is the vocabulary's own"
        )
    return number


def version_of(special_tokens: Collection[str], file_name: str) -> str:
    """The version of a vocabulary without a version number.

    The second and the third differ only in tools and have the same words; open models all have the third, so the second
    is taken only from a file's name (``tokenizer.model.v2``).
    """
    if "[INST]" not in special_tokens:
        return "v1"
    if "[ARGS]" in special_tokens:
        return "v13" if "[THINK]" in special_tokens else "v11"
    if "[TOOL_CONTENT]" in special_tokens:
        return "v7"
    return "v2" if file_name.endswith(".v2") else "v3"


def write(
    version: int, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | str | None, *, is_open: bool
) -> Iterator[tuple[Message, list[str]]]:
    """Each message that is written, and what it is written as: texts, each encoded alone, and control tokens.

    Args:
        tools: definitions, as a list or as JSON.
        is_open: leave the last message without an end.

    Raises:
        DataError: this version has no form for a message.
    """
    if version == 1 and (tools or any(map(_is_tools, messages))):
        raise DataError("Mistral's dialogues of version v1 have no tools; v3 and later have")
    system = (
        "" if version >= 7 else "\n\n".join(m.text_content for m in messages if m.role == "system" and m.text_content)
    )
    users = [i for i, message in enumerate(messages) if message.role == "user"] or [-1]
    if (system or tools) and users == [-1]:
        raise DataError("Mistral writes system messages and tools into the user's message; this dialogue has none")
    names = {call.get("id"): call["name"] for message in messages for call in message.tool_calls}
    for i, message in enumerate(messages):
        text = text_beside_calls(message)
        if message.role == "user":
            if system and i == users[0 if version == 1 else -1]:
                text = f"{system}\n\n{text}"
            yield message, [*(_tools(tools) if i == users[-1] else []), *_user(version, text)]
        elif message.role == "system":
            if version >= 7:
                yield message, [Control("[SYSTEM_PROMPT]"), text, Control("[/SYSTEM_PROMPT]")]
        elif version == 2 and _is_tools(message) and i < users[-1]:
            continue  # they are forgotten once the user has spoken again
        elif message.role == "assistant":
            goes_on = is_open if i == len(messages) - 1 else messages[i + 1].role == "assistant"
            written = _answer(version, message, text)
            yield message, written if goes_on else [*written, Control("</s>")]
        else:
            named = text if message.tool_call_id is None else _named(version, message, names)
            yield message, _result(version, named)


def _is_tools(message: Message) -> bool:
    """A call of a tool, or its result."""
    return message.ipython or bool(message.tool_calls) or message.role in TOOL_ROLES


def _user(version: int, text: str) -> list[str]:
    return [f"[INST] {text} [/INST]"] if version == 1 else [Control("[INST]"), text, Control("[/INST]")]


def _tools(tools: Sequence[Mapping[str, Any]] | str | None) -> list[str]:
    if not tools:
        return []
    text = tools if isinstance(tools, str) else _json(tools)
    return [Control("[AVAILABLE_TOOLS]"), text, Control("[/AVAILABLE_TOOLS]")]


def _answer(version: int, message: Message, text: str) -> list[str]:
    if message.ipython:
        return _calls(version, text)
    if not message.tool_calls:
        return [text if version == 1 else text.rstrip(" ")]
    if text and version < 7:
        raise DataError(f"Mistral's dialogues before v7 have no text beside a tool call; a message has {text[:100]!r}")
    keys = ("name", "arguments") if version == 2 else ("name", "arguments", "id")
    calls = [{key: call[key] for key in keys if key in call} for call in message.tool_calls]
    return [*([text.rstrip(" ")] if text else []), *_calls(version, _json(calls))]


def _named(version: int, message: Message, names: Mapping[str, str]) -> str:
    """A tool's result with the call that it answers."""
    content = message.text_content
    if version < 7:
        with suppress(json.JSONDecodeError):
            content = json.loads(content)
    if version == 2:
        return _json([{"name": message.name or names.get(message.tool_call_id), "content": content}])
    return _json({"content": content, "call_id": message.tool_call_id})


def _calls(version: int, text: str) -> list[str]:
    if version < 11:
        return [Control("[TOOL_CALLS]"), text]
    written: list[str] = []
    for call in _parsed(text, list, _CALLS):
        number = [Control("[CALL_ID]"), str(call["id"])] if call.get("id") else []
        written += [Control("[TOOL_CALLS]"), str(call["name"]), *number, Control("[ARGS]"), _json(call["arguments"])]
    return written


def _result(version: int, text: str) -> list[str]:
    begin, end = Control("[TOOL_RESULTS]"), Control("[/TOOL_RESULTS]")
    if version < 7:
        return [begin, text, end]
    found = _parsed(text, dict, _RESULT)
    content = found["content"] if isinstance(found["content"], str) else _json(found["content"])
    return [begin, str(found["call_id"]), Control("[TOOL_CONTENT]"), content, end]


def _parsed(text: str, kind: type, expected: str) -> Any:
    """The content of a tool's message, whose parts later versions write apart."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    rows = found if isinstance(found, list) else [found]
    needed = ("name", "arguments") if kind is list else ("content", "call_id")
    if not isinstance(found, kind) or not all(isinstance(row, dict) and row.keys() >= {*needed} for row in rows):
        raise DataError(f"a message of a tool is {text[:200]!r}; expected JSON of the form {expected}")
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
