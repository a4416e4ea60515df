"""Rows of datasets as dialogues, one class for each common form of row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchtune.data._messages import MaskingStrategy, Message, check_masking_strategy, mask_messages
from torchtune.errors import ConfigError, DataError
from torchtune.modules.transforms import Transform

# https://github.com/tatsu-lab/stanford_alpaca#data-release
_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
_SHAREGPT_ROLES = {"system": "system", "human": "user", "gpt": "assistant"}


class AlpacaToMessages(Transform):
    """Rows of ``instruction``, ``input`` (may be absent or empty) and ``output``, in Stanford Alpaca's wording.

    Args:
        train_on_input: older form of ``masking_strategy``; where given it decides between ``train_on_all`` and
            ``train_on_assistant``.
        column_map: those three names -> the dataset's column names.
        masking_strategy: see :func:`mask_messages`.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        masking_strategy: str | None = "train_on_all",
    ) -> None:
        self.masking_strategy = _strategy(train_on_input, masking_strategy, "train_on_all")
        self.column_map = _columns(column_map, ("instruction", "output"), optional=("input",))

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        context = sample.get(self.column_map["input"])
        wording = _ALPACA_WITH_INPUT if context else _ALPACA_WITHOUT_INPUT
        prompt = wording.format(instruction=_cell(sample, self.column_map["instruction"]), input=context)
        messages = [Message("user", prompt), Message("assistant", _cell(sample, self.column_map["output"]))]
        mask_messages(messages, self.masking_strategy)
        return {"messages": messages}


class InputOutputToMessages(Transform):
    """Rows of ``input`` and ``output``.

    Args:
        train_on_input: see :class:`AlpacaToMessages`.
        column_map: those two names -> the dataset's column names.
        new_system_prompt: put first, and masked.
        image_dir: folder of the images that a column ``image`` names; not supported yet.
        masking_strategy: see :func:`mask_messages`.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        new_system_prompt: str | None = None,
        image_dir: Path | None = None,
        masking_strategy: str | None = "train_on_assistant",
    ) -> None:
        _refuse_images(image_dir)
        self.masking_strategy = _strategy(train_on_input, masking_strategy, "train_on_assistant")
        self.column_map = _columns(column_map, ("input", "output"))
        self.new_system_prompt = new_system_prompt

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        messages = [
            Message("user", _cell(sample, self.column_map["input"])),
            Message("assistant", _cell(sample, self.column_map["output"])),
        ]
        mask_messages(messages, self.masking_strategy)
        return {"messages": _with_system(messages, self.new_system_prompt)}


class ShareGPTToMessages(Transform):
    """Rows whose ``conversations`` list ``{"from": "system" | "human" | "gpt", "value": text}``.

    Args:
        train_on_input: see :class:`AlpacaToMessages`.
        column_map: ``conversations`` -> the dataset's column name.
        new_system_prompt: replaces the row's system message, if any; masked.
        image_dir, image_tag: folder of the images that a column ``image`` names, and the text they stand in for; not
            supported yet.
        masking_strategy: see :func:`mask_messages`.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        new_system_prompt: str | None = None,
        image_dir: Path | None = None,
        image_tag: str | None = "<image>",
        masking_strategy: str | None = "train_on_assistant",
    ) -> None:
        _refuse_images(image_dir)
        self.masking_strategy = _strategy(train_on_input, masking_strategy, "train_on_assistant")
        self.column_map = _columns(column_map, ("conversations",))
        self.new_system_prompt = new_system_prompt
        self.image_tag = image_tag

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        turns = _cell(sample, self.column_map["conversations"])
        messages = [Message(_sharegpt_role(turn), _cell(turn, "value")) for turn in turns]
        mask_messages(messages, self.masking_strategy)
        return {"messages": _with_system(messages, self.new_system_prompt)}


class OpenAIToMessages(Transform):
    """Rows whose ``messages`` are in the form of OpenAI's chat API
    (https://platform.openai.com/docs/api-reference/chat/create); text only.

    Args:
        train_on_input: see :class:`AlpacaToMessages`.
        column_map: ``messages`` -> the dataset's column name.
        new_system_prompt: replaces the row's system message, if any; masked.
        masking_strategy: see :func:`mask_messages`.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        new_system_prompt: str | None = None,
        masking_strategy: str | None = "train_on_assistant",
    ) -> None:
        self.masking_strategy = _strategy(train_on_input, masking_strategy, "train_on_assistant")
        self.column_map = _columns(column_map, ("messages",))
        self.new_system_prompt = new_system_prompt

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        messages = [_openai_message(turn) for turn in _cell(sample, self.column_map["messages"])]
        mask_messages(messages, self.masking_strategy)
        return {"messages": _with_system(messages, self.new_system_prompt)}


class ChosenRejectedToMessages(Transform):
    """Rows with a ``chosen`` and a ``rejected`` dialogue, each a list of ``{"role": ..., "content": ...}``.

    Args:
        train_on_input: see :class:`AlpacaToMessages`.
        column_map: those two names -> the dataset's column names.
        new_system_prompt: replaces the dialogues' system messages, if any; masked.
        masking_strategy: see :func:`mask_messages`.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        new_system_prompt: str | None = None,
        masking_strategy: str | None = "train_on_assistant",
    ) -> None:
        self.masking_strategy = _strategy(train_on_input, masking_strategy, "train_on_assistant")
        self.column_map = _columns(column_map, ("chosen", "rejected"))
        self.new_system_prompt = new_system_prompt

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: self._dialogue(_cell(sample, self.column_map[name])) for name in ("chosen", "rejected")}

    def _dialogue(self, turns: list[dict[str, Any]]) -> list[Message]:
        messages = [Message.from_dict(turn) for turn in turns]
        mask_messages(messages, self.masking_strategy)
        return _with_system(messages, self.new_system_prompt)


def _strategy(train_on_input: bool | None, masking_strategy: str | None, default: str) -> MaskingStrategy:
    """One strategy from the older and the newer argument, which must not contradict each other."""
    strategy = check_masking_strategy(default if masking_strategy is None else masking_strategy)
    if train_on_input is None:
        return strategy
    wanted = MaskingStrategy.TRAIN_ON_ALL if train_on_input else MaskingStrategy.TRAIN_ON_ASSISTANT
    if strategy in (wanted, default):
        return wanted
    if strategy is MaskingStrategy.TRAIN_ON_LAST and not train_on_input:
        return strategy
    raise ConfigError(f"train_on_input={train_on_input} contradicts masking_strategy={str(strategy)!r}; give only one")


def _columns(given: Mapping[str, str] | None, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict:
    """Our name of each column -> the dataset's."""
    known = (*required, *optional)
    if given is None:
        return {name: name for name in known}
    if given.get("image"):
        _refuse_images(given["image"])
    missing, unknown = [name for name in required if name not in given], sorted(set(given) - set(known))
    if missing or unknown:
        raise ConfigError(f"column_map has the entries {sorted(given)}; expected {', '.join(known)}")
    return {name: given.get(name, name) for name in known}


def _cell(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise DataError(f"a row has no {column!r}; it has {', '.join(map(repr, row))} (column_map names the columns)")
    if row[column] is None:
        raise DataError(f"a row's {column!r} is empty (null)")
    return row[column]


def _with_system(messages: list[Message], prompt: str | None) -> list[Message]:
    if prompt is None:
        return messages
    others = [message for message in messages if message.role != "system"]
    return [Message("system", prompt, masked=True), *others]


def _sharegpt_role(turn: Mapping[str, Any]) -> str:
    speaker = _cell(turn, "from")
    if speaker not in _SHAREGPT_ROLES:
        raise DataError(f"a turn is from {speaker!r}; expected one of {', '.join(_SHAREGPT_ROLES)}")
    return _SHAREGPT_ROLES[speaker]


def _openai_message(turn: Mapping[str, Any]) -> Message:
    if turn.get("tool_calls"):
        raise DataError(
            "a message has 'tool_calls', which each model writes in its own way; put the call's text into 'content', "
            "or write a message transform of your own that does"
        )
    content = _cell(turn, "content")
    if not isinstance(content, str):
        content = [_openai_part(part) for part in content]
    return Message(_cell(turn, "role"), content)


def _openai_part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") != "text":
        raise DataError(f"a message holds a part of type {part.get('type')!r}; only 'text' is supported yet")
    return {"type": "text", "content": _cell(part, "text")}


def _refuse_images(found: Any) -> None:
    if found is not None:
        raise ConfigError(f"images ({found}) are not supported yet; leave out image_dir and the column 'image'")
