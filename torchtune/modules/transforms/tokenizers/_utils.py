"""What the tokenizers share: cutting to length, applying a prompt template, and the turn format without role tokens."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torchtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torchtune.data import Message, PromptTemplateInterface
    from torchtune.modules.transforms.tokenizers._protocols import ModelTokenizer

TRUNCATION_TYPES = ("left", "right")
NO_TOOLS = (
    "this tokenizer's dialogues have no form for that. A tokenizer.json with a chat template may have: see "
    "torchtune.models.auto_tokenizer"
)

# https://github.com/meta-llama/llama-models/blob/main/models/llama3/tokenizer.py: longer text, or longer runs without
# (or of only) whitespace, overflow tiktoken's stack, see https://github.com/openai/tiktoken/issues/195
MAX_CHARS = 400_000
MAX_RUN_CHARS = 25_000
_RUN = re.compile(r"\s+|\S+")


def truncate(
    tokens: list[Any], max_seq_len: int | None, eos_id: Any | None = None, truncation_type: str = "right"
) -> list[Any]:
    """At most ``max_seq_len`` of the tokens, the last of them ``eos_id`` when that is given.

    Args:
        tokens: ids, or a mask; for a mask ``eos_id`` is the last entry's value.
        max_seq_len: None keeps all.
        truncation_type: the side that is cut away, ``"right"`` or ``"left"``.
    """
    check_truncation_type(truncation_type)
    if max_seq_len is None:
        kept = list(tokens)
    else:
        kept = tokens[:max_seq_len] if truncation_type == "right" else tokens[max(0, len(tokens) - max_seq_len) :]
    if eos_id is not None and kept:
        kept[-1] = eos_id
    return kept


def truncate_dialogue(
    tokens: list[int], mask: list[bool], max_seq_len: int | None, truncation_type: str, eos_id: int | None = None
) -> tuple[list[int], list[bool]]:
    """At most ``max_seq_len`` of the tokens and of their mask.

    Args:
        eos_id: ends what has lost its own end, in place of its last token. It is never trained on, for it would teach
            the model to stop in the middle of a sentence.
    """
    if max_seq_len is None or len(tokens) <= max_seq_len:
        return tokens, mask
    tokens = truncate(tokens, max_seq_len, truncation_type=truncation_type)
    mask = truncate(mask, max_seq_len, truncation_type=truncation_type)
    if truncation_type == "right" and eos_id is not None and tokens and tokens[-1] != eos_id:
        tokens[-1], mask[-1] = eos_id, True
    return tokens, mask


def check_truncation_type(truncation_type: str) -> None:
    if truncation_type not in TRUNCATION_TYPES:
        raise ConfigError(f"truncation_type is {truncation_type!r}; expected 'left' or 'right'")


def split_long(text: str) -> Iterator[str]:
    """The text in pieces that tiktoken can take, cut where Llama's own tokenizer cuts it."""
    if len(text) <= MAX_RUN_CHARS:
        yield text
        return
    for offset in range(0, len(text), MAX_CHARS):
        chunk, begin = text[offset : offset + MAX_CHARS], 0
        for run in _RUN.finditer(chunk):
            for cut in range(run.start() + MAX_RUN_CHARS, run.end(), MAX_RUN_CHARS):
                yield chunk[begin:cut]
                begin = cut
        yield chunk[begin:]


def without_lone_surrogates(text: str) -> str:
    """The text with halves of surrogate pairs joined or replaced; JSON may hold them, UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def apply_template(
    template: PromptTemplateInterface | None, messages: list[Message], *, inference: bool
) -> list[Message]:
    """The messages as the template dresses them; ``inference`` is passed only to a template that knows it."""
    if template is None:
        return messages
    if inference and "inference" in inspect.signature(template).parameters:
        return template(messages, inference=True)
    return template(messages)


def text_of(part: Mapping[str, Any]) -> str:
    """The text of one part of a message's content.

    Raises:
        DataError: the part is not text.
    """
    if part["type"] == "tool_call":
        raise DataError(f"a message calls the tool {part['content']['name']!r}; {NO_TOOLS}")
    if part["type"] != "text":
        raise DataError(f"a message holds content of type {part['type']!r}; this tokenizer takes text only")
    return part["content"]


def text_beside_calls(message: Message) -> str:
    """The text of a message whose calls of tools are written apart."""
    return "".join(text_of(part) for part in message.content if part["type"] != "tool_call")


def tokenize_sample(tokenizer: ModelTokenizer, sample: Mapping[str, Any], inference: bool) -> dict[str, Any]:
    """The sample with ``tokens`` and ``mask`` in place of ``messages`` and, where it has some, of ``tools``; at
    inference the last message stays open.

    Raises:
        DataError: there are no messages, or ``tools`` that the tokenizer has no form for.
    """
    if "messages" not in sample:
        raise DataError(f"a sample to tokenize has no 'messages'; it has {sorted(sample)}")
    tools = {"tools": sample["tools"]} if sample.get("tools") else {}
    if tools and "tools" not in inspect.signature(tokenizer.tokenize_messages).parameters:
        raise DataError(f"a sample has 'tools'; {NO_TOOLS}")
    tokens, mask = tokenizer.tokenize_messages(sample["messages"], add_end_tokens=not inference, **tools)
    rest = {key: value for key, value in sample.items() if key not in ("messages", "tools")}
    return {**rest, "tokens": tokens, "mask": mask}


def tokenize_messages_no_special_tokens(
    tokenizer: ModelTokenizer,
    messages: list[Message],
    *,
    bos_id: int | None = None,
    eos_id: int | None = None,
    truncation_type: str = "right",
    add_end_tokens: bool = True,
) -> tuple[list[int], list[bool]]:
    """Tokens and mask of a dialogue for models that have no token for a role (Llama 2, Mistral).

    ``bos_id`` opens each turn and ``eos_id`` closes it after the assistant's message. A vocabulary of this kind writes
    a space into the word that follows it; so trailing spaces are left to the next piece of text, and a piece that
    continues a turn without a space before it gets none.

    Args:
        add_end_tokens: False leaves the last message without ``eos_id``, for the model to go on.
    """
    limit = tokenizer.max_seq_len
    tokens: list[int] = []
    mask: list[bool] = []
    opens_turn, after_space = True, False
    for index, message in enumerate(messages):
        ids = [bos_id] if opens_turn and bos_id is not None else []
        for text in map(text_of, message.content):
            trim = not opens_turn and not after_space
            ids += tokenizer.encode(text.rstrip(" "), add_bos=False, add_eos=False, trim_leading_whitespace=trim)
            after_space = text.endswith(" ")
        opens_turn = message.role == "assistant"
        if opens_turn and eos_id is not None and (add_end_tokens or index < len(messages) - 1):
            ids.append(eos_id)
        tokens += ids
        mask += [message.masked] * len(ids)
        if limit is not None and len(tokens) > limit and truncation_type == "right":
            break
    return truncate_dialogue(tokens, mask, limit, truncation_type, eos_id if add_end_tokens else None)
