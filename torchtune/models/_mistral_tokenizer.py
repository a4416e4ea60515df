"""Mistral's tokenizers and the forms of its dialogues."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchtune.data._messages import Message, Role
from torchtune.data._prompt_templates import PromptTemplateInterface, _get_prompt_template, surround
from torchtune.errors import DataError
from torchtune.models._mistral_dialogues import Control, version_number, version_of, write
from torchtune.models._words_tokenizer import Words, WordsTokenizer
from torchtune.modules.transforms.tokenizers import SentencePieceBaseTokenizer, tokenize_messages_no_special_tokens
from torchtune.modules.transforms.tokenizers._files import JSON, SENTENCEPIECE, kind_of, require_file
from torchtune.modules.transforms.tokenizers._tekken import TEKKEN, TekkenBaseTokenizer, is_tekken
from torchtune.modules.transforms.tokenizers._tokenizer_json import PlainTextTokenizer
from torchtune.modules.transforms.tokenizers._utils import apply_template, truncate_dialogue

logger = logging.getLogger(__name__)


class MistralChatTemplate(PromptTemplateInterface):
    """torchtune's form of Mistral's dialogues, ``[INST] question [/INST] answer``, in which the marks are text."""

    template = {"system": None, "user": ("[INST] ", " [/INST] "), "assistant": ("", ""), "ipython": ("", "")}

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]:
        """The messages with their marks.

        Raises:
            DataError: there is a system message.
        """
        if any(message.role == "system" for message in messages):
            raise DataError(
                "MistralChatTemplate has no place for a system message; put it into the user's first message, or give "
                "the tokenizer a version, as in version=auto"
            )
        return [surround(message, *(self.template.get(message.role) or ("", ""))) for message in messages]


class MistralTokenizer(WordsTokenizer):
    """Mistral's words and dialogues.

    There are two forms of dialogues. Without ``version`` it is torchtune's: each turn begins with ``bos_id``, and the
    marks of ``prompt_template`` are text. With ``version`` they are written as mistral-common's tokenizer of that
    version does, which is what Mistral's instruct models were trained with; from v2 on their marks are control tokens,
    and no text of a message becomes one. Where a message has ``ipython`` instead of calls, its text must be
    ``[{"name": "f", "arguments": {"x": 1}, "id": "9charsid1"}]``, and that of a result without ``tool_call_id``
    ``{"content": "2", "call_id": "9charsid1"}``. Both are written as they are up to v3, so for v2 they have its keys.

    Args:
        path: ``tokenizer.model`` (sentencepiece), ``tekken.json`` or ``tokenizer.json``.
        max_seq_len: tokens; longer dialogues are cut. None cuts nothing.
        prompt_template: None leaves the messages as they are. With a version, any template but the default is put
            around messages inside of the version's marks.
        truncation_type: the side that is cut away, "right" or "left".
        version: "v1", "v2", "v3", "v7" or "v11"; "auto" is that of the file; None is torchtune's form, but for
            ``tekken.json``, which torchtune does not read, that of the file.

    Raises:
        ConfigError: dialogues of the version are not known, or the vocabulary does not have its control tokens.
    """

    def __init__(
        self,
        path: str,
        max_seq_len: int | None = None,
        prompt_template: PromptTemplateInterface | None = MistralChatTemplate(),  # noqa: B008 (it holds no state)
        truncation_type: str = "right",
        *,
        version: str | None = None,
    ) -> None:
        super().__init__(*_words(path), max_seq_len, prompt_template, truncation_type)
        self.version = self._find_version(version, Path(path).name)
        self._number = version_number(self.version, self.special_tokens) if self.version else None
        is_plain = isinstance(prompt_template, MistralChatTemplate)
        if is_plain and self.version:
            self.prompt_template = None
        if is_plain and not self.version and "[INST]" in self.special_tokens:
            logger.warning(
                "The vocabulary of %s has the control token [INST], and MistralChatTemplate writes [INST] as text. "
                "Instruct models that have it expect version: auto.",
                path,
            )

    def _find_version(self, asked: str | None, file_name: str) -> str | None:
        named = getattr(self._base, "version", None)
        if asked in (None, "auto"):
            return named if asked is None or named else version_of(self.special_tokens, file_name)
        return asked

    def encode(
        self, text: str, add_bos: bool = True, add_eos: bool = True, trim_leading_whitespace: bool = False
    ) -> list[int]:
        """The ids of a text, which is never read as special tokens; see :meth:`SentencePieceBaseTokenizer.encode`."""
        if trim_leading_whitespace and not isinstance(self._base, TekkenBaseTokenizer):
            return self._base.encode(text, add_bos, add_eos, trim_leading_whitespace=True)
        return self._base.encode(text, add_bos, add_eos)

    def tokenize_messages(
        self,
        messages: list[Message],
        *,
        add_eos: bool = True,
        add_end_tokens: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | str | None = None,
    ) -> tuple[list[int], list[bool]]:
        """Tokens of a dialogue and its mask, in which True means: not trained on.

        Args:
            add_eos: close the last message; ``add_end_tokens`` is the name other tokenizers have for it.
            tools: definitions of the tools that the model may call, as a list or as JSON; only with a version.

        Raises:
            DataError: the form of dialogues has no place for a message or for tools.
        """
        add_eos = add_eos if add_end_tokens is None else add_end_tokens
        messages = apply_template(self.prompt_template, messages, inference=not add_eos)
        if self.version:
            return self._tokenize_version(messages, tools, add_eos)
        if tools:
            raise DataError("torchtune's form of dialogues has no place for tools; give the tokenizer version=auto")
        return tokenize_messages_no_special_tokens(
            self,
            messages,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
            truncation_type=self.truncation_type,
            add_end_tokens=add_eos,
        )

    def _tokenize_version(
        self, messages: list[Message], tools: Sequence[Mapping[str, Any]] | str | None, add_eos: bool
    ) -> tuple[list[int], list[bool]]:
        tokens, mask = [self.bos_id], [True]
        for message, pieces in write(self._number, messages, tools, is_open=not add_eos):
            for piece in pieces:
                tokens += self._ids(piece)
            mask += [message.masked] * (len(tokens) - len(mask))
        eos_id = self.eos_id if add_eos else None
        return truncate_dialogue(tokens, mask, self.max_seq_len, self.truncation_type, eos_id)

    def _ids(self, piece: str) -> list[int]:
        if isinstance(piece, Control):
            return [self.special_tokens[piece]]
        return self.encode(piece, add_bos=False, add_eos=False)


def mistral_tokenizer(
    path: str,
    max_seq_len: int | None = None,
    prompt_template: str | dict[Role, tuple[str, str]] | None = "torchtune.models.mistral.MistralChatTemplate",
    truncation_type: str = "right",
    *,
    version: str | None = None,
) -> MistralTokenizer:
    """Mistral's tokenizer, as configs name it; for the arguments see :class:`MistralTokenizer`.

    Args:
        prompt_template: dotted path to a template, or role -> [text before, text after].
    """
    template = _get_prompt_template(prompt_template)
    return MistralTokenizer(path, max_seq_len, template, truncation_type, version=version)


def _words(path: str) -> tuple[Words, dict[str, int]]:
    """The words, and the special tokens by name."""
    if kind_of(require_file(path, f"{SENTENCEPIECE}, {TEKKEN} or tokenizer.json")) != JSON:
        words = SentencePieceBaseTokenizer(path)
        return words, words.control_tokens()
    if is_tekken(path):
        words = TekkenBaseTokenizer(path)
        return words, words.special_tokens
    words = PlainTextTokenizer(path, bos_token="<s>", eos_token="</s>")
    added = words.tokenizer.get_added_tokens_decoder().items()
    return words, {token.content: number for number, token in added if token.special}
