"""Text around the messages of a dialogue, for models and tasks that expect a certain wording."""

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, get_args

from torchtune.config import instantiate
from torchtune.data._messages import Message, Role
from torchtune.errors import ConfigError


class PromptTemplateInterface(Protocol):
    """Messages in, messages with text around them out; ``inference`` says that the model is to write the next one."""

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]: ...


class PromptTemplate(PromptTemplateInterface):
    """A text before and a text after each message, by role.

    Args:
        template: role -> (before, after); roles that are left out stay as they are.

    Raises:
        ConfigError: a role is unknown, or its entry is not two texts.
    """

    def __init__(self, template: dict[Role, tuple[str, str]]) -> None:
        for role, pair in template.items():
            if role not in get_args(Role):
                raise ConfigError(f"a prompt template has the role {role!r}; expected {', '.join(get_args(Role))}")
            is_pair = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
            if not is_pair or not all(text is None or isinstance(text, str) for text in pair):
                raise ConfigError(f"the prompt template of {role!r} is {pair!r}; expected [text before, text after]")
        self.template = {role: tuple(pair) for role, pair in template.items()}

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]:
        return [surround(message, *self.template.get(message.role, ("", ""))) for message in messages]


class ChatMLTemplate(PromptTemplateInterface):
    """OpenAI's ChatML (https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md), its marks as text."""

    template = {
        "system": ("<|im_start|>system\n", "<|im_end|>\n"),
        "user": ("<|im_start|>user\n", "<|im_end|>\n"),
        "assistant": ("<|im_start|>assistant\n", "<|im_end|>\n"),
        "ipython": ("", ""),
        "tool": ("", ""),
    }

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]:
        """The messages in ChatML; at inference a last, empty message of the assistant is left open."""
        dressed = [surround(message, *self.template[message.role]) for message in messages]
        if inference and messages and messages[-1].role == "assistant" and not messages[-1].text_content:
            dressed[-1] = surround(messages[-1], self.template["assistant"][0], "")
        return dressed


GrammarErrorCorrectionTemplate = functools.partial(
    PromptTemplate, template={"user": ("Correct this to standard English: ", "\n---\nCorrected: ")}
)
SummarizeTemplate = functools.partial(
    PromptTemplate, template={"user": ("Summarize this dialogue:\n", "\n---\nSummary:\n")}
)
QuestionAnswerTemplate = functools.partial(PromptTemplate, template={"user": ("Question: ", "\n\nAnswer: ")})


def surround(message: Message, before: str, after: str) -> Message:
    """A copy of the message with a text before and after its content."""
    dressed = copy.copy(message)
    dressed.content = [*_text_parts(before), *message.content, *_text_parts(after)]
    return dressed


def _text_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "content": text}] if text else []


def _get_prompt_template(prompt_template: Any) -> PromptTemplateInterface | None:
    """The template that a config names: a dotted path to a class without arguments, or role -> [before, after].

    Raises:
        ConfigError: it is neither.
    """
    if prompt_template is None or callable(prompt_template):
        return prompt_template
    if isinstance(prompt_template, str):
        return instantiate({"_component_": prompt_template})
    if isinstance(prompt_template, Mapping):
        return PromptTemplate(template=dict(prompt_template))
    raise ConfigError(
        f"prompt_template is {prompt_template!r}; expected a dotted path such as torchtune.data.ChatMLTemplate, or a "
        "mapping from a role to [text before, text after]"
    )
