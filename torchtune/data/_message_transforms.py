"""Rows of datasets as dialogues, one class for each common form of row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchtune.data._messages import MaskingStrategy, Message, Role, check_masking_strategy, mask_messages
from torchtune.data._turns import (
    OPENAI,
    PAIRS,
    PROMPTS,
    SHAREGPT,
    Said,
    after_prompt,
    after_system,
    cell,
    dialogue,
    read_turns,
    text_cell,
    tools_of,
)
from torchtune.errors import ConfigError
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


class AlpacaToMessages(Transform):
    """Rows of ``instruction``, ``input`` (may be absent or empty) and ``output``, in Stanford Alpaca's wording.

    Args:
        train_on_input: older form of ``masking_strategy``; where given it decides between ``train_on_all`` and
            ``train_on_assistant``.
        column_map: those three names -> the dataset's column names, where they differ.
        masking_strategy: see :func:`mask_messages`.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        masking_strategy: str | Sequence[Role] | None = "train_on_all",
    ) -> None:
        self.masking_strategy = _strategy(train_on_input, masking_strategy, "train_on_all")
        own_names = {"instruction": "instruction", "output": "output"}
        self.column_map = _columns(own_names | dict(column_map or {}), tuple(own_names), ("input",))
        self._input = (column_map or {}).get("input", "input")

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        context = "" if sample.get(self._input) in (None, "") else text_cell(sample, self._input)
        wording = _ALPACA_WITH_INPUT if context else _ALPACA_WITHOUT_INPUT
        prompt = wording.format(instruction=text_cell(sample, self.column_map["instruction"]), input=context)
        messages = [Message("user", prompt), Message("assistant", text_cell(sample, self.column_map["output"]))]
        mask_messages(messages, self.masking_strategy)
        return {"messages": messages}


class InputOutputToMessages(Transform):
    """Rows of ``input`` and ``output``: texts, or lists of turns as in :class:`OpenAIToMessages`, of which those of the
    input are learnt only where all is, or roles are named.

    Args:
        train_on_input: see :class:`AlpacaToMessages`.
        column_map: those two names -> the dataset's column names; ``tools``, beside turns, as in
            :class:`OpenAIToMessages`.
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
        masking_strategy: str | Sequence[Role] | None = "train_on_assistant",
    ) -> None:
        _refuse_images(image_dir)
        self.masking_strategy = _strategy(train_on_input, masking_strategy, "train_on_assistant")
        self.column_map = _columns(column_map, ("input", "output"), ("tools",))
        self._tools = (column_map or {}).get("tools", "tools")
        self.new_system_prompt = new_system_prompt

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        asked, answered = self._side(sample, "input", "user"), self._side(sample, "output", "assistant")
        if self.masking_strategy is MaskingStrategy.TRAIN_ON_ASSISTANT:  # an answer within the input is an example
            asked = [Said(message, trained or False) for message, trained in asked]
        messages = dialogue([*asked, *answered], self.masking_strategy, self.new_system_prompt)
        has_turns = any(_is_dialogue(sample[self.column_map[name]]) for name in ("input", "output"))
        return {"messages": messages, **(tools_of(sample, self._tools) if has_turns else {})}

    def _side(self, sample: Mapping[str, Any], name: str, role: Role) -> list[Said]:
        column = self.column_map[name]
        if _is_dialogue(found := cell(sample, column)):
            return read_turns(found, column, PROMPTS)
        return [Said(Message(role, text_cell(sample, column)))]


class ShareGPTToMessages(Transform):
    """Rows whose ``conversations`` list ``{"from": "system" | "human" | "gpt", "value": text}``; with tools also
    ``function_call``, whose value is JSON, and ``observation``. A turn with ``"train": false`` is masked.

    Args:
        train_on_input: see :class:`AlpacaToMessages`.
        column_map: ``conversations`` -> the dataset's column name; ``tools`` -> the column with the functions that the
            model may call, None for none; ``system`` -> the one with the system message, None for none.
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
        masking_strategy: str | Sequence[Role] | None = "train_on_assistant",
    ) -> None:
        _refuse_images(image_dir)
        self.masking_strategy = _strategy(train_on_input, masking_strategy, "train_on_assistant")
        self.column_map = _columns(column_map, ("conversations",), ("tools", "system"))
        self._tools, self._system = ((column_map or {}).get(name, name) for name in ("tools", "system"))
        self.new_system_prompt = new_system_prompt
        self.image_tag = image_tag

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        column = self.column_map["conversations"]
        said = read_turns(cell(sample, column), column, SHAREGPT)
        if self.new_system_prompt is None:
            said = after_system(said, sample, self._system)
        messages = dialogue(said, self.masking_strategy, self.new_system_prompt)
        return {"messages": messages, **tools_of(sample, self._tools)}


class OpenAIToMessages(Transform):
    """Rows whose ``messages`` are in the form of OpenAI's chat API
    (https://platform.openai.com/docs/api-reference/chat/create): text and ``tool_calls``. One with ``"weight": 0`` is
    masked.

    Args:
        train_on_input: see :class:`AlpacaToMessages`.
        column_map: ``messages`` -> the dataset's column name; ``tools`` -> the column with the functions that the model
            may call, None for none.
        new_system_prompt: replaces the row's system message, if any; masked.
        masking_strategy: see :func:`mask_messages`.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        new_system_prompt: str | None = None,
        masking_strategy: str | Sequence[Role] | None = "train_on_assistant",
    ) -> None:
        self.masking_strategy = _strategy(train_on_input, masking_strategy, "train_on_assistant")
        self.column_map = _columns(column_map, ("messages",), ("tools",))
        self._tools = (column_map or {}).get("tools", "tools")
        self.new_system_prompt = new_system_prompt

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        column = self.column_map["messages"]
        said = read_turns(cell(sample, column), column, OPENAI)
        messages = dialogue(said, self.masking_strategy, self.new_system_prompt)
        return {"messages": messages, **tools_of(sample, self._tools)}


class ChosenRejectedToMessages(Transform):
    """Rows with a ``chosen`` and a ``rejected`` dialogue, each a list of turns as in :class:`OpenAIToMessages`. A
    ``prompt``, such turns or a user's text, is put before both, unless they hold it already.

    Args:
        train_on_input: see :class:`AlpacaToMessages`.
        column_map: those names -> the dataset's column names, ``prompt`` -> None for none; ``tools`` as in
            :class:`OpenAIToMessages`.
        new_system_prompt: replaces the dialogues' system messages, if any; masked.
        masking_strategy: see :func:`mask_messages`.
    """

    def __init__(
        self,
        train_on_input: bool | None = None,
        column_map: dict[str, str] | None = None,
        new_system_prompt: str | None = None,
        masking_strategy: str | Sequence[Role] | None = "train_on_assistant",
    ) -> None:
        self.masking_strategy = _strategy(train_on_input, masking_strategy, "train_on_assistant")
        self.column_map = _columns(column_map, ("chosen", "rejected"), ("prompt", "tools"))
        self._prompt, self._tools = ((column_map or {}).get(name, name) for name in ("prompt", "tools"))
        self.new_system_prompt = new_system_prompt

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        sides = {name: self._side(sample, self.column_map[name]) for name in ("chosen", "rejected")}
        return {**sides, **tools_of(sample, self._tools)}

    def _side(self, sample: Mapping[str, Any], column: str) -> list[Message]:
        said = read_turns(cell(sample, column), column, PAIRS)
        said = after_prompt(said, column, sample, self._prompt)
        return dialogue(said, self.masking_strategy, self.new_system_prompt)


def _is_dialogue(found: Any) -> bool:
    return isinstance(found, list) and any(isinstance(turn, Mapping) for turn in found)


def _strategy(
    train_on_input: bool | None, masking_strategy: str | Sequence[Role] | None, default: str
) -> MaskingStrategy | tuple[Role, ...]:
    """One strategy from the older and the newer argument, which must not contradict each other."""
    strategy = check_masking_strategy(default if masking_strategy is None else masking_strategy)
    if train_on_input is None:
        return strategy
    wanted = MaskingStrategy.TRAIN_ON_ALL if train_on_input else MaskingStrategy.TRAIN_ON_ASSISTANT
    if strategy in (wanted, default):
        return wanted
    leaves_input = strategy is MaskingStrategy.TRAIN_ON_LAST or isinstance(strategy, tuple) and "user" not in strategy
    if leaves_input and not train_on_input:
        return strategy
    raise ConfigError(f"train_on_input={train_on_input} contradicts masking_strategy={masking_strategy}; give only one")


def _columns(
    given: Mapping[str, str | None] | None, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, str]:
    """Our name of each column -> the dataset's; of the optional ones those that are given. Where only such are given,
    the others have our names.
    """
    given = given or {}
    if not given.keys() & set(required):
        given = {**{name: name for name in required}, **given}
    if given.get("image"):
        _refuse_images(given["image"])
    if not set(required) <= set(given) <= {*required, *optional}:
        found = sorted(map(str, given))
        raise ConfigError(f"column_map has the entries {found}; expected {', '.join((*required, *optional))}")
    if absent := [name for name in required if given[name] is None]:
        raise ConfigError(f"column_map.{absent[0]} is null; it must name a column")
    found = {name: column for name, column in given.items() if column is not None}
    check_names(found)
    return found


def check_names(columns: Mapping[str, Any]) -> None:
    """Raises ConfigError unless all columns are named by texts."""
    for name, column in columns.items():
        if not isinstance(column, str):
            raise ConfigError(f"column_map.{name} is {column!r}; expected a column's name (a number in quotes)")


def _refuse_images(found: Any) -> None:
    if found is not None:
        raise ConfigError(f"images ({found}) are not supported yet; leave out image_dir and the column 'image'")
