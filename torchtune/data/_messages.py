"""A message of a dialogue: who speaks, what, and whether the model is trained on it."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, get_args

from torchtune.errors import ConfigError, DataError

Role = Literal["system", "user", "assistant", "ipython", "tool"]

TOOL_ROLES = ("ipython", "tool")  # the result of a tool call; Llama says ipython, most others tool


class Message:
    """One message of a dialogue.

    Args:
        role: ``ipython`` and ``tool`` give the result of a tool call.
        content: a text, or parts, as which it is kept: ``{"type": "text", "content": "..."}``,
            ``{"type": "image", "content": image}``, and a call of a tool,
            ``{"type": "tool_call", "content": {"name": "f", "arguments": {"x": 1}, "id": "c1"}}``, whose id may be
            absent.
        masked: True: the model sees the message and is not trained on it.
        ipython: the text of the assistant's message is itself a call of a tool, to be run as it stands.
        eot: the message ends the turn; False where a tool's result comes before the assistant goes on.
        name: of who speaks, or of the function that gave this result.
        tool_call_id: the call that this result answers.

    Raises:
        DataError: the role is unknown, the content is not of this form, or something other than an assistant's text
            is a tool call.
    """

    def __init__(
        self,
        role: Role,
        content: str | list[dict[str, Any]],
        masked: bool = False,
        ipython: bool = False,
        eot: bool = True,
        *,
        name: str | None = None,
        tool_call_id: str | None = None,
    ) -> None:
        self.role = role
        self.content = [{"type": "text", "content": content}] if isinstance(content, str) else content
        self.masked = masked
        self.ipython = ipython
        self.eot = eot
        self.name = name
        self.tool_call_id = tool_call_id
        self._check()

    @classmethod
    def from_dict(cls, d: dict) -> "Message":
        """A message from a mapping with the constructor's names; all but ``role`` and ``content`` may be left out."""
        if missing := [name for name in ("role", "content") if name not in d]:
            raise DataError(f"a message has no {' and no '.join(map(repr, missing))}; it has {sorted(d)}")
        others = ("masked", "ipython", "eot", "name", "tool_call_id")
        return cls(d["role"], d["content"], **{name: d[name] for name in others if name in d})

    def get_media(self) -> list[Any]:
        """The images, in order."""
        return [part["content"] for part in self.content if part["type"] == "image"]

    @property
    def contains_media(self) -> bool:
        """Whether any part is an image."""
        return any(part["type"] == "image" for part in self.content)

    @property
    def text_content(self) -> str:
        """The text parts, joined."""
        return "".join(part["content"] for part in self.content if part["type"] == "text")

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls of tools, in order."""
        return [part["content"] for part in self.content if part["type"] == "tool_call"]

    def __repr__(self) -> str:
        parts = [part["content"] if part["type"] == "text" else f"<{part['type']}>" for part in self.content]
        return f"Message(role={self.role!r}, content={parts!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and vars(self) == vars(other)

    __hash__ = None  # two messages may come to differ: both can be changed

    def _check(self) -> None:
        if self.role not in get_args(Role):
            raise DataError(f"a message has the role {self.role!r}; expected one of {', '.join(get_args(Role))}")
        if not isinstance(self.content, list) or not all(map(_is_part, self.content)):
            raise DataError(
                f"the content of a message from {self.role!r} is {self.content!r}; expected a text, or a list of "
                '{"type": "text", "content": "..."}'
            )
        if self.ipython and (self.role != "assistant" or self.contains_media):
            what = "holds an image" if self.contains_media else f"is from {self.role!r}"
            raise DataError(f"only a text from the assistant can be a tool call (ipython=True); this message {what}")
        if self.tool_calls and self.role != "assistant":
            raise DataError(f"only the assistant calls tools; a message from {self.role!r} does")


class MaskingStrategy(StrEnum):
    """Which messages of a dialogue the model is trained on."""

    TRAIN_ON_ALL = "train_on_all"
    TRAIN_ON_ASSISTANT = "train_on_assistant"
    TRAIN_ON_LAST = "train_on_last"


def mask_messages(messages: list[Message], masking_strategy: MaskingStrategy | str | Sequence[Role]) -> None:
    """Set ``masked`` of each message, in place.

    Args:
        masking_strategy: ``train_on_all`` masks none, ``train_on_assistant`` all but the assistant's, ``train_on_last``
            all but the assistant's last; a list of roles all but theirs.

    Raises:
        ConfigError: there is no such strategy or role.
    """
    strategy = check_masking_strategy(masking_strategy)
    roles = strategy if isinstance(strategy, tuple) else ("assistant",)
    trained = [i for i, m in enumerate(messages) if strategy is MaskingStrategy.TRAIN_ON_ALL or m.role in roles]
    if strategy is MaskingStrategy.TRAIN_ON_LAST:
        trained = trained[-1:]
    for index, message in enumerate(messages):
        message.masked = index not in trained


def check_masking_strategy(
    masking_strategy: MaskingStrategy | str | Sequence[Role],
) -> MaskingStrategy | tuple[Role, ...]:
    """The strategy of that name, or the roles.

    Raises:
        ConfigError: there is no such strategy or role.
    """
    is_roles = isinstance(masking_strategy, list | tuple) and len(masking_strategy) > 0
    if is_roles and all(role in get_args(Role) for role in masking_strategy):
        return tuple(masking_strategy)
    if masking_strategy not in list(MaskingStrategy):
        raise ConfigError(
            f"masking_strategy is {masking_strategy!r}; expected one of {', '.join(MaskingStrategy)}, or a list of "
            f"roles from {', '.join(get_args(Role))}"
        )
    return MaskingStrategy(masking_strategy)


def validate_messages(messages: list[Message]) -> None:
    """Check the order of a dialogue: at most one system message, first; then user and assistant in turns. A tool's
    result follows the assistant or another result, and the assistant may go on after it.

    Raises:
        DataError: the order is another, or there are fewer than two messages.
    """
    if len(messages) < 2:
        raise DataError(f"a dialogue needs at least two messages, this one has {len(messages)}")
    for index, message in enumerate(messages):
        before = messages[index - 1].role if index else None
        if reason := _out_of_order(message.role, before):
            roles = ", ".join(m.role for m in messages[: index + 1])
            raise DataError(f"message {index} is out of order: {reason} (roles so far: {roles})")


def _out_of_order(role: str, before: str | None) -> str | None:
    if role == "system" and before is not None:
        return "a system message must come first"
    if role == "user" and before == "user":
        return "the user speaks twice without an answer between"
    if role == "assistant" and before not in ("user", *TOOL_ROLES):
        return "the assistant speaks without a message from the user or a tool before it"
    if role in TOOL_ROLES and before not in ("assistant", *TOOL_ROLES):
        return "a tool's result comes without a message from the assistant before it"
    return None


def _is_part(part: Any) -> bool:
    return isinstance(part, Mapping) and "type" in part and "content" in part
