"""Gemma's tokenizer and the form of its dialogues (1, 2 and 3 share the tokenizer)."""

import re

from torchtune.data._messages import Message, Role
from torchtune.data._prompt_templates import PromptTemplateInterface, _get_prompt_template
from torchtune.errors import ConfigError, DataError
from torchtune.models._words_tokenizer import Words, WordsTokenizer
from torchtune.modules.transforms.tokenizers import SentencePieceBaseTokenizer
from torchtune.modules.transforms.tokenizers._files import JSON, SENTENCEPIECE, kind_of, require_file
from torchtune.modules.transforms.tokenizers._tokenizer_json import PlainTextTokenizer
from torchtune.modules.transforms.tokenizers._utils import apply_template, text_of, truncate_dialogue

_START, _END = "<start_of_turn>", "<end_of_turn>"
_MARKS = (_START, _END, "<start_of_image>", "<end_of_image>")
_MARK = re.compile(f"({'|'.join(_MARKS)})")
_TAIL = f"(?={'|'.join(mark[1:] for mark in _MARKS)})"
_INSIDE_MARK = re.compile(f"(?<=<){_TAIL}")
# Stands there in a message's own text while a template puts real marks around it; no text has this code point.
_NO_MARK = "\ufdd0"
_HELD_APART = re.compile(f"(?<=<){_NO_MARK}{_TAIL}")


class GemmaChatTemplate(PromptTemplateInterface):
    """The dialogues of Gemma's and Gemma 2's instruct models, as their own chat template writes them.

    One ``<bos>`` opens the dialogue, and nothing follows the end of its last turn.
    Source: https://ai.google.dev/gemma/docs/core/prompt-structure
    """

    def __call__(self, messages: list[Message], inference: bool = False) -> list[Message]:
        """The messages with their marks; at inference the last is left open, or after a user's one of the model begun.

        Raises:
            DataError: user and assistant do not take turns, the user first.
        """
        before, messages = self._split(messages)
        if inference and messages and messages[-1].role == "user":
            messages = [*messages, Message("assistant", "")]
        dressed = []
        for i, message in enumerate(messages):
            if message.role != ("user", "assistant")[i % 2]:
                roles = [m.role for m in messages]
                raise DataError(f"Gemma's dialogues have user and assistant by turns, the user first; here {roles}")
            is_open = inference and i == len(messages) - 1
            text = message.text_content if is_open else f"{message.text_content.strip()}{_END}\n"
            speaker = "user\n" if i % 2 == 0 else "model\n"
            dressed.append(Message(message.role, f"{_START}{speaker}{before}{text}", masked=message.masked))
            before = ""
        return dressed

    def _split(self, messages: list[Message]) -> tuple[str, list[Message]]:
        """What stands before the user's first text, and the messages."""
        if messages and messages[0].role == "system":
            raise DataError("Gemma 2's dialogues have no system message; put its text into the user's first message")
        return "", messages


class Gemma3ChatTemplate(GemmaChatTemplate):
    """The dialogues of Gemma 3's instruct models: the system message stands in the user's first turn."""

    def _split(self, messages: list[Message]) -> tuple[str, list[Message]]:
        if messages and messages[0].role == "system":
            return f"{messages[0].text_content}\n\n", messages[1:]
        return "", messages


class GemmaTokenizer(WordsTokenizer):
    """Gemma's words and dialogues.

    Marks such as ``<start_of_turn>`` in a template become their tokens; in a message, or in :meth:`encode`, they stay
    text. Without :class:`GemmaChatTemplate` each turn begins with ``bos_id`` and ends with ``eos_id``, as in torchtune.

    Args:
        path: ``tokenizer.model`` (sentencepiece) or ``tokenizer.json``.
        max_seq_len: tokens; longer dialogues are cut. None cuts nothing.
        prompt_template: None leaves the messages as they are.
        truncation_type: the side that is cut away, "right" or "left".

    Raises:
        ConfigError: the template has marks that the vocabulary has not.
    """

    def __init__(
        self,
        path: str,
        max_seq_len: int | None = None,
        prompt_template: PromptTemplateInterface | None = None,
        truncation_type: str = "right",
    ) -> None:
        is_json = kind_of(require_file(path, SENTENCEPIECE)) == JSON
        words = PlainTextTokenizer(path, "<bos>", "<eos>") if is_json else SentencePieceBaseTokenizer(path)
        found = {name: _id_of(words, name) for name in ("<pad>", "<eos>", "<bos>", *_MARKS)}
        special_tokens = {name: token for name, token in found.items() if token is not None}
        super().__init__(words, special_tokens, max_seq_len, prompt_template, truncation_type)
        if _END in special_tokens:
            self.stop_tokens.append(special_tokens[_END])
        self._is_chat = isinstance(prompt_template, GemmaChatTemplate)
        if self._is_chat and not {_START, _END} <= self.special_tokens.keys():
            raise ConfigError(f"{path} has no {_START} and {_END}, which the chat template needs; is it Gemma's?")

    @property
    def text_vocab_size(self) -> int:
        """Rows that the embedding of a model without images needs."""
        return self.vocab_size - (_id_of(self._base, "<image_soft_token>") == self.vocab_size - 1)

    def encode(
        self, text: str, add_bos: bool = True, add_eos: bool = True, trim_leading_whitespace: bool = False
    ) -> list[int]:
        """The ids of a text, which is never read as special tokens; see :meth:`SentencePieceBaseTokenizer.encode`."""
        first, *rest = _INSIDE_MARK.split(text)
        ids = self._base.encode(first, add_bos, False, trim_leading_whitespace)
        for piece in rest:
            ids += self._base.encode(piece, False, False, trim_leading_whitespace=True)
        return [*ids, self.eos_id] if add_eos else ids

    def decode(self, token_ids: list[int]) -> str:
        """The text of the ids, special tokens left out."""
        special = self.special_tokens.values()
        return self._base.decode([token for token in token_ids if token not in special])

    def tokenize_messages(
        self, messages: list[Message], *, add_eos: bool = True, add_end_tokens: bool | None = None
    ) -> tuple[list[int], list[bool]]:
        """Tokens of a dialogue and its mask, in which True means: not trained on.

        Args:
            add_eos: close the last message; ``add_end_tokens`` is the name other tokenizers have for it.
        """
        add_eos = add_eos if add_end_tokens is None else add_end_tokens
        held = [_holding_marks_apart(message) for message in messages]
        dressed = apply_template(self.prompt_template, held, inference=not add_eos)
        tokens: list[int] = []
        mask: list[bool] = []
        opens_turn = True
        for number, message in enumerate(dressed, 1):
            ids = self._with_marks(_text(message))
            if opens_turn:
                ids.insert(0, self.bos_id)
            opens_turn = message.role == "assistant" and not self._is_chat
            if opens_turn and (add_eos or number < len(dressed)):
                ids.append(self.eos_id)
            tokens += ids
            mask += [message.masked] * len(ids)
        eos_id = self.eos_id if add_eos and not self._is_chat else None
        return truncate_dialogue(tokens, mask, self.max_seq_len, self.truncation_type, eos_id)

    def _with_marks(self, text: str) -> list[int]:
        """The ids of a text whose marks, but for those held apart, are tokens."""
        ids: list[int] = []
        for piece in _MARK.split(text):
            if piece in self.special_tokens:
                ids.append(self.special_tokens[piece])
            else:
                ids += self.encode(_HELD_APART.sub("", piece), add_bos=False, add_eos=False)
        return ids


def gemma_tokenizer(
    path: str,
    max_seq_len: int | None = None,
    prompt_template: str | dict[Role, tuple[str, str]] | None = None,
    truncation_type: str = "right",
) -> GemmaTokenizer:
    """Gemma's tokenizer, as configs name it; for the arguments see :class:`GemmaTokenizer`.

    Args:
        prompt_template: dotted path to a template, or role -> [text before, text after].
    """
    return GemmaTokenizer(path, max_seq_len, _get_prompt_template(prompt_template), truncation_type)


def _id_of(words: Words, name: str) -> int | None:
    if isinstance(words, PlainTextTokenizer):
        return words.tokenizer.token_to_id(name)
    found = words.spm_model.piece_to_id(name)
    return None if found == words.spm_model.unk_id() else found


def _text(message: Message) -> str:
    return "".join(map(text_of, message.content))


def _holding_marks_apart(message: Message) -> Message:
    """The message as one text whose own marks are none."""
    text = _INSIDE_MARK.sub(_NO_MARK, _text(message))
    return Message(message.role, text, message.masked, message.ipython, message.eot)
