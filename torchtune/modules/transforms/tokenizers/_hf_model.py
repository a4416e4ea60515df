"""Any model with a ``tokenizer.json`` and a chat template."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.errors import DataError
from torchtune.modules.transforms.tokenizers._chat_template import (
    compile_chat_template,
    find_chat_template,
    render_chat_template,
)
from torchtune.modules.transforms.tokenizers._tokenizer_json import HuggingFaceBaseTokenizer, token_text
from torchtune.modules.transforms.tokenizers._utils import check_truncation_type, tokenize_sample, truncate

if TYPE_CHECKING:
    from torchtune.data import Message


class HuggingFaceModelTokenizer:
    """Dialogues through the chat template that comes with the model.

    The mask is exact for templates that render the beginning of a dialogue as the beginning of the whole; for others
    there is an error, not a guess.

    Args:
        tokenizer_json_path: the chat template is looked for beside it, then in ``tokenizer_config.json``.
        tokenizer_config_json_path, generation_config_path: see :class:`HuggingFaceBaseTokenizer`.
        truncation_type: the side that is cut from a dialogue longer than ``max_seq_len``, "right" or "left".
        max_seq_len: tokens; None cuts nothing.

    Raises:
        DataError: there is no chat template, or it does not parse.
    """

    def __init__(
        self,
        tokenizer_json_path: str | Path,
        *,
        tokenizer_config_json_path: str | Path | None = None,
        generation_config_path: str | Path | None = None,
        truncation_type: str = "right",
        max_seq_len: int | None = None,
    ) -> None:
        check_truncation_type(truncation_type)
        self.base_tokenizer = HuggingFaceBaseTokenizer(
            tokenizer_json_path,
            tokenizer_config_json_path=tokenizer_config_json_path,
            generation_config_path=generation_config_path,
        )
        config = self.base_tokenizer.config or {}
        source = find_chat_template(Path(tokenizer_config_json_path or tokenizer_json_path).parent, config)
        if source is None:
            raise DataError(
                f"{tokenizer_json_path}: no chat template beside it (chat_template.jinja, chat_template.json) and none "
                "in tokenizer_config.json"
            )
        self.chat_template = source
        self._template = compile_chat_template(source)
        self.top_level_variables = self.extract_top_level_variables(config)
        self.truncation_type = truncation_type
        self.max_seq_len = max_seq_len
        self.special_tokens = self.base_tokenizer.special_tokens
        self.bos_id, self.eos_id = self.base_tokenizer.bos_id, self.base_tokenizer.eos_id
        self.pad_id = self.eos_id if self.base_tokenizer.pad_id is None else self.base_tokenizer.pad_id
        self.stop_tokens = self.base_tokenizer.stop_tokens

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_template"}  # compiled code does not pickle

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _template=compile_chat_template(state["chat_template"]))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self.base_tokenizer.vocab_size

    def extract_top_level_variables(self, config: Mapping[str, Any]) -> dict[str, str]:
        """What a template may name directly, such as ``bos_token``: every plain text and token of the config."""
        texts = {name: token_text(entry) for name, entry in config.items() if isinstance(entry, (str, Mapping))}
        return {name: text for name, text in texts.items() if isinstance(text, str) and name != "chat_template"}

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The ids of a text outside any dialogue."""
        return self.base_tokenizer.encode(text, add_bos=add_bos, add_eos=add_eos)

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of the ids."""
        return self.base_tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def render_template(self, messages: list[dict[str, str]], add_eos: bool = True) -> str:
        """The dialogue as text.

        Args:
            messages: ``role`` and ``content`` of each.
            add_eos: False leaves the dialogue open for the model to go on: after the text of a last assistant message,
                or at the beginning of a new one.
        """
        if add_eos:
            return self._render(messages, add_generation_prompt=False)
        begun = messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else None
        if begun is None:
            return self._render(messages, add_generation_prompt=True)
        return self._render(messages[:-1], add_generation_prompt=True) + begun

    def tokenize_messages(
        self,
        messages: list[Message],
        add_eos: bool = True,
        max_seq_len: int | None = None,
        *,
        add_end_tokens: bool | None = None,
    ) -> tuple[list[int], list[bool]]:
        """Tokens of a dialogue and its mask, in which True means: not trained on.

        Args:
            add_eos: see :meth:`render_template`; ``add_end_tokens`` is the name other tokenizers have for it.
            max_seq_len: in place of the tokenizer's own.
        """
        add_eos = add_eos if add_end_tokens is None else add_end_tokens
        rows = [{"role": message.role, "content": message.text_content} for message in messages]
        text = self.render_template(rows, add_eos)
        encoding = self.base_tokenizer.tokenizer.encode(text, add_special_tokens=False)
        starts = [start for start, _ in encoding.offsets]
        mask: list[bool] = []
        for end, masked in self._masked_spans(messages, rows, text):
            mask += [masked] * (bisect_left(starts, end) - len(mask))
        limit = max_seq_len or self.max_seq_len
        if limit is None or len(mask) <= limit:
            return encoding.ids, mask
        eos_id, eos_mask = (self.eos_id, mask[-1]) if add_eos else (None, None)
        ids = truncate(encoding.ids, limit, eos_id, self.truncation_type)
        return ids, truncate(mask, limit, eos_mask, self.truncation_type)

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """The sample with ``tokens`` and ``mask`` in place of ``messages``."""
        return tokenize_sample(self, sample, inference)

    def _masked_spans(self, messages: list[Message], rows: list[dict[str, str]], text: str) -> list[tuple[int, bool]]:
        """Where in the text each run of equally masked messages ends, and whether it is masked.

        Only the ends of runs are rendered, because many templates refuse a dialogue that stops after a system message.
        """
        spans, count = [], 0
        for masked, run in groupby(messages, key=lambda message: message.masked):
            count += len(list(run))
            if count == len(messages):
                break
            beginning = self._render(rows[:count], add_generation_prompt=False)
            if not text.startswith(beginning):
                raise DataError(
                    f"the chat template renders the first {count} of {len(rows)} messages differently when more "
                    "follow, so which tokens belong to which message is unknown; train on all messages, or use a "
                    "template that only appends"
                )
            spans.append((len(beginning), masked))
        return [*spans, (len(text), messages[-1].masked)] if messages else [(len(text), True)]

    def _render(self, rows: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        return render_chat_template(
            self._template, **self.top_level_variables, messages=rows, add_generation_prompt=add_generation_prompt
        )
