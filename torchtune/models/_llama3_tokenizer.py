"""Llama 3's tokenizer, its special tokens and the form of its dialogues (3, 3.1, 3.2 and 3.3 share them)."""

import json
from collections.abc import Mapping
from typing import Any

from torchtune.data._messages import Message, Role
from torchtune.data._prompt_templates import PromptTemplateInterface, _get_prompt_template
from torchtune.errors import ConfigError, DataError
from torchtune.modules.transforms import Transform
from torchtune.modules.transforms.tokenizers import ModelTokenizer, TikTokenBaseTokenizer, parse_hf_tokenizer_json
from torchtune.modules.transforms.tokenizers._files import JSON, TIKTOKEN, kind_of, require_file
from torchtune.modules.transforms.tokenizers._tokenizer_json import PlainTextTokenizer
from torchtune.modules.transforms.tokenizers._utils import (
    apply_template,
    check_truncation_type,
    text_of,
    tokenize_sample,
    truncate_dialogue,
)

# Pattern, names and numbers: https://github.com/meta-llama/llama-models/blob/main/models/llama3/tokenizer.py
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_FIRST_SPECIAL_ID, _NUM_SPECIAL = 128_000, 256
_NAMED = {
    "<|begin_of_text|>": 128_000,
    "<|end_of_text|>": 128_001,
    "<|reserved_special_token_0|>": 128_002,
    "<|reserved_special_token_1|>": 128_003,
    "<|finetune_right_pad_id|>": 128_004,
    "<|step_id|>": 128_005,
    "<|start_header_id|>": 128_006,
    "<|end_header_id|>": 128_007,
    "<|eom_id|>": 128_008,
    "<|eot_id|>": 128_009,
    "<|python_tag|>": 128_010,
    # The row after the text model's vocabulary, where the vision model has it; 128011, which carries the name in the
    # tokenizer file's own table, is never given to a model. It gets the first number that table leaves free.
    "<|image|>": 128_256,
    "<|reserved_special_token_246|>": 128_011,
}
_RESERVED = {f"<|reserved_special_token_{i - 128_010}|>": i for i in range(128_012, _FIRST_SPECIAL_ID + _NUM_SPECIAL)}
LLAMA3_SPECIAL_TOKENS: dict[str, int] = _NAMED | _RESERVED

_NEEDED = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)


class Llama3Tokenizer(ModelTokenizer, Transform):
    """Llama 3's words and dialogues; text that looks like a special token stays text.

    A tool call is written in JSON, as by the chat templates of Llama 3.1 and later; the text of a message that is one
    itself (``ipython``) follows ``<|python_tag|>``. What tools there are has no form here: each release has its own.

    Args:
        path: ``tokenizer.model`` (tiktoken) or ``tokenizer.json``.
        special_tokens: name -> id; None for Llama 3's own.
        max_seq_len: tokens; longer dialogues are cut. None cuts nothing.
        prompt_template: text put around messages, besides the special tokens.
        truncation_type: the side that is cut away, "right" or "left".

    Raises:
        ConfigError: a special token that the format needs is missing.
    """

    def __init__(
        self,
        path: str,
        special_tokens: dict[str, int] | None = None,
        max_seq_len: int | None = None,
        prompt_template: PromptTemplateInterface | None = None,
        truncation_type: str = "right",
    ) -> None:
        check_truncation_type(truncation_type)
        self.special_tokens = _special_tokens(path, special_tokens)
        self.bos_id = self.special_tokens["<|begin_of_text|>"]
        self.eos_id = self.special_tokens["<|end_of_text|>"]
        self.pad_id = self.special_tokens["<|finetune_right_pad_id|>"]
        self.step_id = self.special_tokens.get("<|step_id|>")
        self.start_header_id = self.special_tokens["<|start_header_id|>"]
        self.end_header_id = self.special_tokens["<|end_header_id|>"]
        self.eot_id = self.special_tokens["<|eot_id|>"]
        self.eom_id = self.special_tokens["<|eom_id|>"]
        self.python_tag = self.special_tokens["<|python_tag|>"]
        self.image_id = self.special_tokens.get("<|image|>")
        self.stop_tokens = [self.eos_id, self.eot_id, self.eom_id]
        self.tt_model = _words(path, self.special_tokens)
        self.max_seq_len = max_seq_len
        self.prompt_template = prompt_template
        self.truncation_type = truncation_type
        self._after_header = self.encode("\n\n", add_bos=False, add_eos=False)
        self._special_ids = frozenset(self.special_tokens.values())
        self._headers: dict[str, list[int]] = {}

    @property
    def base_vocab_size(self) -> int:
        """Number of words, special tokens not counted."""
        return self.tt_model.base_vocab_size

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, that of the image token included."""
        return max(self.tt_model.vocab_size, max(self._special_ids) + 1)

    @property
    def text_vocab_size(self) -> int:
        """Rows that the embedding of a model without images needs."""
        text_ids = self._special_ids - {self.image_id}
        return max(self.base_vocab_size, max(text_ids) + 1)

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The ids of a text, which is never read as special tokens."""
        return self.tt_model.encode(text, add_bos=add_bos, add_eos=add_eos)

    def decode(self, token_ids: list[int], truncate_at_eos: bool = True, skip_special_tokens: bool = True) -> str:
        """The text of the ids.

        Args:
            truncate_at_eos: up to the first ``<|end_of_text|>``.
            skip_special_tokens: leave out special tokens and the roles in headers; else their names are written.
        """
        if truncate_at_eos and self.eos_id in token_ids:
            token_ids = token_ids[: token_ids.index(self.eos_id)]
        if skip_special_tokens:
            return self.tt_model.decode(self._without_special(token_ids), truncate_at_eos=False)
        if isinstance(self.tt_model, PlainTextTokenizer):
            return self.tt_model.decode(token_ids, skip_special_tokens=False)
        return self.tt_model.decode(token_ids, truncate_at_eos=False)

    def tokenize_message(
        self, message: Message, *, add_start_tokens: bool = True, add_end_tokens: bool = True
    ) -> list[int]:
        """The ids of one message: header, content, end.

        Args:
            add_start_tokens: with the header that names the role.
            add_end_tokens: with ``<|eot_id|>``, or ``<|eom_id|>`` where the turn goes on.
        """
        tokens = list(self._header(message.role)) if add_start_tokens else []
        if message.ipython:
            tokens.append(self.python_tag)
        for part in message.content:
            if part["type"] == "image":
                tokens.append(self._image())
            elif part["type"] == "tool_call":
                tokens += self.encode(_call(message), add_bos=False, add_eos=False)
            else:
                tokens += self.encode(text_of(part), add_bos=False, add_eos=False)
        if add_end_tokens:
            tokens.append(self.eot_id if message.eot else self.eom_id)
        return tokens

    def tokenize_messages(
        self, messages: list[Message], *, add_end_tokens: bool = True
    ) -> tuple[list[int], list[bool]]:
        """Tokens of a dialogue and its mask, in which True means: not trained on.

        Args:
            add_end_tokens: close the last message and add ``<|end_of_text|>``; False leaves it open for the model to
                go on.
        """
        tokens, mask = [self.bos_id], [True]
        messages = apply_template(self.prompt_template, messages, inference=not add_end_tokens)
        for number, message in enumerate(messages, 1):
            ids = self.tokenize_message(message, add_end_tokens=add_end_tokens or number < len(messages))
            tokens += ids
            mask += [message.masked] * len(ids)
            if self.max_seq_len is not None and len(tokens) > self.max_seq_len and self.truncation_type == "right":
                break
        if add_end_tokens:
            tokens.append(self.eos_id)
            mask.append(True)
        eos_id = self.eos_id if add_end_tokens else None
        return truncate_dialogue(tokens, mask, self.max_seq_len, self.truncation_type, eos_id)

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """The sample with ``tokens`` and ``mask`` in place of ``messages``; at inference the last one stays open."""
        return tokenize_sample(self, sample, inference)

    def _header(self, role: str) -> list[int]:
        if role not in self._headers:
            name = self.encode("ipython" if role == "tool" else role, add_bos=False, add_eos=False)
            self._headers[role] = [self.start_header_id, *name, self.end_header_id, *self._after_header]
        return self._headers[role]

    def _image(self) -> int:
        if self.image_id is None:
            raise DataError("a message holds an image, and the special tokens have no '<|image|>'")
        return self.image_id

    def _without_special(self, token_ids: list[int]) -> list[int]:
        """The ids of text alone, headers with their role and line breaks left out."""
        kept, position = [], 0
        while position < len(token_ids):
            token = token_ids[position]
            position += 1
            if token == self.start_header_id and self.end_header_id in token_ids[position:]:
                position = token_ids.index(self.end_header_id, position) + 1
                if token_ids[position : position + len(self._after_header)] == self._after_header:
                    position += len(self._after_header)
            elif token not in self._special_ids:
                kept.append(token)
        return kept


def llama3_tokenizer(
    path: str,
    special_tokens_path: str | None = None,
    max_seq_len: int | None = None,
    prompt_template: str | dict[Role, tuple[str, str]] | None = None,
    truncation_type: str = "right",
) -> Llama3Tokenizer:
    """Llama 3's tokenizer, as configs name it; for the arguments see :class:`Llama3Tokenizer`.

    Args:
        special_tokens_path: a ``tokenizer.json`` whose special tokens are taken; None for Llama 3's own.
        prompt_template: dotted path to a template, or role -> [text before, text after].
    """
    special_tokens = None if special_tokens_path is None else parse_hf_tokenizer_json(special_tokens_path)
    template = _get_prompt_template(prompt_template)
    return Llama3Tokenizer(path, special_tokens, max_seq_len, template, truncation_type)


def _call(message: Message) -> str:
    if len(message.content) > 1:
        raise DataError(f"Llama 3 writes one tool call and nothing beside it; a message has {message}")
    call = message.tool_calls[0]
    return json.dumps({"name": call["name"], "parameters": call["arguments"]}, ensure_ascii=False)


def _special_tokens(path: str, given: dict[str, int] | None) -> dict[str, int]:
    """The given tokens; else those of a ``tokenizer.json`` that numbers them otherwise; else Llama 3's own.

    Hugging Face's files name some of the same numbers differently, so Llama 3's own names win where the numbers are
    Llama 3's.
    """
    if given is None and kind_of(require_file(path, TIKTOKEN)) == JSON:
        given = parse_hf_tokenizer_json(path)
        if given.get("<|begin_of_text|>") == _FIRST_SPECIAL_ID:
            given = None
    if given is None:
        return dict(LLAMA3_SPECIAL_TOKENS)
    if missing := [name for name in _NEEDED if name not in given]:
        raise ConfigError(f"the special tokens for {path} lack {', '.join(missing)}, which Llama 3's dialogues need")
    return dict(given)


def _words(path: str, special_tokens: dict[str, int]) -> TikTokenBaseTokenizer | PlainTextTokenizer:
    if kind_of(path) == JSON:
        return PlainTextTokenizer(path, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
    return TikTokenBaseTokenizer(
        path,
        name="llama3",
        pattern=LLAMA3_PATTERN,
        bos_id=special_tokens["<|begin_of_text|>"],
        eos_id=special_tokens["<|end_of_text|>"],
        special_tokens=special_tokens,
    )
