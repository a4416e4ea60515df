"""Any model with a ``tokenizer.json`` and a chat template."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.errors import ConfigError, DataError
from torchtune.modules.transforms.tokenizers._chat_template import (
    ChatTemplate,
    Span,
    find_chat_template,
    template_source,
)
from torchtune.modules.transforms.tokenizers._rows import PLACE, Row, find_written, template_rows
from torchtune.modules.transforms.tokenizers._spans import Render, injected, trained_spans
from torchtune.modules.transforms.tokenizers._tokenizer_json import HuggingFaceBaseTokenizer, encode_text, token_text
from torchtune.modules.transforms.tokenizers._utils import check_truncation_type, tokenize_sample, truncate_dialogue

if TYPE_CHECKING:
    from torchtune.data import Message

# Names in tokenizer_config.json of tokens that stand for what is no text, such as Gemma 3's.
_MEDIA = ("image_token", "audio_token", "video_token")
_TELLING = 3  # messages of a dialogue, on whose roles it depends what a template writes before them


class HuggingFaceModelTokenizer:
    """Dialogues through the chat template that comes with the model.

    The mask is exact: the template's own marks (``{% generation %}``) count, or else what each message adds to those
    before it, also where a template changes earlier messages; what cannot be known is an error, not a guess.

    Args:
        tokenizer_json_path: the chat template is looked for beside it, then in ``tokenizer_config.json``.
        tokenizer_config_json_path, generation_config_path: see :class:`HuggingFaceBaseTokenizer`.
        truncation_type: the side that is cut from a dialogue longer than ``max_seq_len``, "right" or "left".
        max_seq_len: tokens; None cuts nothing.
        chat_template: a template to use instead of the model's: its source, a Jinja file, or the folder of a model.
        chat_template_kwargs: further variables of the template, for example ``{"enable_thinking": False}``.
        today: the date, as 2025-01-31, for templates that write it; None is the clock's.

    Raises:
        DataError: there is no chat template, or it does not parse.
        ConfigError: ``chat_template`` is none, or ``today`` is no date.
    """

    def __init__(
        self,
        tokenizer_json_path: str | Path,
        *,
        tokenizer_config_json_path: str | Path | None = None,
        generation_config_path: str | Path | None = None,
        truncation_type: str = "right",
        max_seq_len: int | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        today: str | None = None,
    ) -> None:
        check_truncation_type(truncation_type)
        self.base_tokenizer = HuggingFaceBaseTokenizer(
            tokenizer_json_path,
            tokenizer_config_json_path=tokenizer_config_json_path,
            generation_config_path=generation_config_path,
        )
        config = self.base_tokenizer.config or {}
        own = find_chat_template(Path(tokenizer_config_json_path or tokenizer_json_path).parent, config)
        source = own if chat_template is None else template_source(chat_template)
        if source is None:
            raise DataError(
                f"{tokenizer_json_path}: no chat template beside it (chat_template.jinja, chat_template.json) and none "
                "in tokenizer_config.json"
            )
        self.chat_template = source
        self._brought = source != own
        self._template = ChatTemplate(source, _date(today))
        end = {"eos_token": self.base_tokenizer.tokenizer.id_to_token(self.base_tokenizer.eos_id)}
        self.top_level_variables = end | self.extract_top_level_variables(config) | dict(chat_template_kwargs or {})
        self.truncation_type = truncation_type
        self.max_seq_len = max_seq_len
        self.special_tokens = self.base_tokenizer.special_tokens
        self.bos_id, self.eos_id = self.base_tokenizer.bos_id, self.base_tokenizer.eos_id
        self.pad_id = self.eos_id if self.base_tokenizer.pad_id is None else self.base_tokenizer.pad_id
        self._written = find_written(self._rendered_or_empty)
        self._writes_tools = self._finds_tools_written()
        self.stop_tokens = list(dict.fromkeys([*self.base_tokenizer.stop_tokens, *self._end_of_turn()]))

    def __getstate__(self) -> dict[str, Any]:
        """Without what is found out in use, so that kept data is known again by its tokenizer."""
        return {key: value for key, value in vars(self).items() if key not in ("text_vocab_size", "_injected")}

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self.base_tokenizer.vocab_size

    @cached_property
    def text_vocab_size(self) -> int:
        """Rows that the embedding of a model without images needs: the last ids may stand for those."""
        config = self.base_tokenizer.config or {}
        media = {self.special_tokens.get(token_text(config.get(name))) for name in _MEDIA}
        return next(size for size in range(self.vocab_size, 0, -1) if size - 1 not in media)

    @property
    def files(self) -> dict[str, str]:
        """What a folder of the trained model needs beyond the files that it was read from: name -> text."""
        files = {"chat_template.jinja": self.chat_template} if self._brought else {}
        if self.stop_tokens != self.base_tokenizer.stop_tokens:
            changed = {**(self.base_tokenizer.generation_config or {}), "eos_token_id": self.stop_tokens}
            files["generation_config.json"] = json.dumps(changed, indent=2) + "\n"
        return files

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

    def render_template(
        self, messages: Sequence[Row], add_eos: bool = True, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> str:
        """The dialogue as text.

        Args:
            messages: ``role`` and ``content`` of each.
            add_eos: False leaves the dialogue open for the model to go on: after the text of a last assistant message,
                or at the beginning of a new one.
            tools: JSON schemas of the functions that the model may call.
        """
        return self._rendered(messages, add_eos, tools)[0]

    def tokenize_messages(
        self,
        messages: list[Message],
        add_eos: bool = True,
        max_seq_len: int | None = None,
        *,
        add_end_tokens: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[list[int], list[bool]]:
        """Tokens of a dialogue and its mask, in which True means: not trained on.

        Args:
            add_eos: see :meth:`render_template`, also for ``tools``; ``add_end_tokens`` is the name other tokenizers
                have for it.
            max_seq_len: in place of the tokenizer's own.

        Raises:
            DataError: the template refuses the dialogue, leaves tools or calls out, or does not let it be seen which
                part is which message.
        """
        if tools and not self._writes_tools:
            raise DataError(
                "there are 'tools', which the chat template does not write; column_map: {tools: null} leaves them out"
            )
        add_eos = add_eos if add_end_tokens is None else add_end_tokens
        rows = template_rows(messages, self._written)
        text, marks = self._rendered(rows, add_eos, tools)
        masked = [message.masked for message in messages]
        render = partial(self.render_template, tools=tools)
        begin = 0 if all(masked[:1]) else self._begin(rows, text, render, bool(tools))
        known = marks if self._template.has_marks and add_eos else None
        spans = trained_spans(rows, masked, text, known, render, self.special_tokens, begin)
        ids, mask = self._tokenized(text, spans)
        eos_id = self.eos_id if add_eos else None
        return truncate_dialogue(ids, mask, max_seq_len or self.max_seq_len, self.truncation_type, eos_id)

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """The sample with ``tokens`` and ``mask`` in place of ``messages`` and, if it has them, ``tools``."""
        return tokenize_sample(self, sample, inference)

    def _rendered(
        self, rows: Sequence[Row], add_eos: bool, tools: Sequence[Mapping[str, Any]] | None
    ) -> tuple[str, list[Span]]:
        render = partial(self._template.render, **self.top_level_variables, tools=tools or None)
        if add_eos:
            return render(messages=rows, add_generation_prompt=False)
        begun = rows[-1]["content"] if rows and rows[-1]["role"] == "assistant" else None
        text, marks = render(messages=rows if begun is None else rows[:-1], add_generation_prompt=True)
        return text + (begun or ""), marks

    @cached_property
    def _injected(self) -> dict[tuple[str, ...], str]:
        """Roles of the first messages -> what the template writes before them, without tools."""
        return {}

    def _begin(self, rows: Sequence[Row], text: str, render: Render, with_tools: bool) -> int:
        """Where the first message begins in the text of a dialogue."""
        roles = tuple(row["role"] for row in rows[:_TELLING])
        before = None if with_tools else self._injected.get(roles)
        if before is None or not text.startswith(before):  # yesterday's
            before = injected(roles, render)
        if not with_tools:
            self._injected[roles] = before
        return len(before) if text.startswith(before) else 0

    def _tokenized(self, text: str, spans: Sequence[Span]) -> tuple[list[int], list[bool]]:
        """A token is trained on when any of its characters is."""
        encoding = encode_text(self.base_tokenizer.tokenizer, text)
        if self.text_vocab_size < self.vocab_size and max(encoding.ids, default=0) >= self.text_vocab_size:
            named = self.decode([max(encoding.ids)], skip_special_tokens=False)
            raise DataError(f"a message holds {named!r}, which stands for what is no text; models of text have no such")
        offsets = encoding.offsets
        starts = [start for start, _ in offsets]
        mask = [True] * len(starts)
        for begin, end in spans:
            first, last = bisect_left(starts, begin), bisect_left(starts, end)
            while first and offsets[first - 1][1] > begin:
                first -= 1
            mask[first:last] = [False] * (last - first)
        return encoding.ids, mask

    def _end_of_turn(self) -> list[int]:
        """The special token that the template writes after an answer, if there is one.

        A base model's files may name only the end of a document, though its template closes turns with another token.
        """
        rows = [{"role": "user", "content": "a"}, {"role": "assistant", "content": PLACE}]
        closing = self._rendered_or_empty(rows).rpartition(PLACE)[2]
        ids = encode_text(self.base_tokenizer.tokenizer, closing).ids if closing else []
        return [i for i in ids[:1] if i in self.special_tokens.values()]

    def _finds_tools_written(self) -> bool:
        function = {"name": PLACE, "description": "", "parameters": {"type": "object", "properties": {}}}
        tools = [{"type": "function", "name": PLACE, "function": function}]  # some take the function alone
        return PLACE in self._rendered_or_empty([{"role": "user", "content": "a"}], tools)

    def _rendered_or_empty(self, rows: Sequence[Row], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The text of a dialogue; empty where the template asks for another one."""
        try:
            return self.render_template(rows, tools=tools)
        except DataError:
            return ""


def _date(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(str(text))
    except ValueError:
        raise ConfigError(f"today is {text!r}; expected a date such as 2025-01-31") from None
