"""What callers may rely on in any tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torchtune.data import Message


class BaseTokenizer(Protocol):
    """Text to token ids and back; knows nothing of dialogues."""

    def encode(self, text: str, **kwargs: dict[str, Any]) -> list[int]: ...

    def decode(self, token_ids: list[int], **kwargs: dict[str, Any]) -> str: ...


class ModelTokenizer(Protocol):
    """A dialogue to token ids and a mask of the same length, in which True means: not trained on."""

    special_tokens: dict[str, int]
    max_seq_len: int | None

    def tokenize_messages(self, messages: list[Message], **kwargs: dict[str, Any]) -> tuple[list[int], list[bool]]: ...
