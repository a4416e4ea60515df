"""The tokenizers of Phi 3 and Phi 4: their special tokens and the forms of their dialogues.

Names and numbers: ``tokenizer_config.json`` and ``generation_config.json`` beside each checkpoint at
https://huggingface.co/microsoft.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Any

from torchtune.data._messages import Message, Role
from torchtune.data._prompt_templates import PromptTemplateInterface, _get_prompt_template
from torchtune.errors import ConfigError, DataError
from torchtune.models._llama3_tokenizer import LLAMA3_PATTERN
from torchtune.modules.transforms import Transform
from torchtune.modules.transforms.tokenizers import (
    ModelTokenizer,
    SentencePieceBaseTokenizer,
    parse_hf_tokenizer_json,
)
from torchtune.modules.transforms.tokenizers._byte_pairs import byte_pair_tokenizer
from torchtune.modules.transforms.tokenizers._files import JSON, SENTENCEPIECE, kind_of, require_file
from torchtune.modules.transforms.tokenizers._tokenizer_json import PlainTextTokenizer, encode_ids, load_tokenizer_json
from torchtune.modules.transforms.tokenizers._utils import (
    apply_template,
    check_truncation_type,
    text_of,
    tokenize_sample,
    truncate_dialogue,
)

_ROLES = ("system", "user", "assistant")


def _numbered(names: str, first: int) -> dict[str, int]:
    return {f"<|{name}|>": number for number, name in enumerate(names.split(), first)}


def _dummies(first: int, last: int) -> str:
    return " ".join(f"dummy_{number}" for number in range(first, last + 1))


PHI3_SPECIAL_TOKENS = _numbered(
    "endoftext assistant placeholder1 placeholder2 placeholder3 placeholder4 system end placeholder5 placeholder6 user",
    first=32_000,
)
PHI4_SPECIAL_TOKENS = _numbered(
    f"dummy_0 endoftext fim_prefix fim_middle fim_suffix {_dummies(1, 3)} im_start im_end im_sep {_dummies(4, 12)} "
    f"endofprompt {_dummies(13, 87)}",
    first=100_256,
)
# https://github.com/openai/tiktoken/blob/main/tiktoken_ext/openai_public.py: cl100k_base, as Llama 3's
PHI4_PATTERN = LLAMA3_PATTERN


class _PhiTokenizer(ModelTokenizer, Transform):
    """Dialogues of messages that stand between special tokens; text that looks like one stays text."""

    special_tokens: dict[str, int]
    eos_id: int
    _after: tuple[str, ...] = ()  # closes a dialogue

    def _set_up(
        self,
        path: str,
        special_tokens: Mapping[str, int],
        needed: Collection[str],
        max_seq_len: int | None,
        prompt_template: PromptTemplateInterface | None,
        truncation_type: str,
    ) -> None:
        check_truncation_type(truncation_type)
        if missing := [name for name in needed if name not in special_tokens]:
            raise ConfigError(f"the special tokens for {path} lack {', '.join(missing)}, which its dialogues need")
        self.special_tokens = dict(special_tokens)
        self.max_seq_len, self.prompt_template, self.truncation_type = max_seq_len, prompt_template, truncation_type

    def tokenize_messages(
        self, messages: list[Message], *, add_end_tokens: bool = False, ignore_system_prompt: bool = False
    ) -> tuple[list[int], list[bool]]:
        """Tokens of a dialogue and its mask, in which True means: not trained on.

        Args:
            add_end_tokens: False leaves a last message of the assistant open, or begins one, for the model to go on.
            ignore_system_prompt: leave system messages out.

        Raises:
            DataError: a message has a role that the model does not have.
        """
        messages = apply_template(self.prompt_template, messages, inference=not add_end_tokens)
        messages = [m for m in messages if not (ignore_system_prompt and m.role == "system")]
        if not add_end_tokens and (not messages or messages[-1].role != "assistant"):
            messages.append(Message("assistant", ""))
        tokens: list[int] = []
        mask: list[bool] = []
        for number, message in enumerate(messages, 1):
            is_last = number == len(messages)
            tokens += self._ids_of(_role(message), _text(message), is_open=is_last and not add_end_tokens)
            if add_end_tokens and is_last:
                tokens += [self.special_tokens[name] for name in self._after]
            mask += [message.masked] * (len(tokens) - len(mask))
        eos_id = self.eos_id if add_end_tokens else None
        return truncate_dialogue(tokens, mask, self.max_seq_len, self.truncation_type, eos_id)

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """The sample with ``tokens`` and ``mask`` in place of ``messages``; at inference the last one stays open."""
        return tokenize_sample(self, sample, inference)

    @abstractmethod
    def _ids_of(self, role: Role, text: str, is_open: bool) -> list[int]:
        """The ids of a message, an open one without its end token."""


class Phi3MiniTokenizer(_PhiTokenizer):
    """Phi 3's words and dialogues; text that looks like a special token stays text.

    The ids are those of the model's own ``tokenizer.json`` and chat template. There a special token takes up the white
    space after it: the line breaks of the template, and what a message begins with.

    Args:
        path: ``tokenizer.model`` (sentencepiece) or ``tokenizer.json``.
        special_tokens: name -> id; None for those of ``tokenizer.json``, or Phi 3's own.
        max_seq_len: tokens; longer dialogues are cut. None cuts nothing.
        prompt_template: text put around messages, besides the special tokens.
        truncation_type: the side that is cut away, "right" or "left".

    Raises:
        ConfigError: a special token that the format needs is missing.
    """

    _after = ("<|endoftext|>",)

    def __init__(
        self,
        path: str,
        special_tokens: dict[str, int] | None = None,
        max_seq_len: int | None = None,
        prompt_template: PromptTemplateInterface | None = None,
        truncation_type: str = "right",
    ) -> None:
        is_json = kind_of(require_file(path, SENTENCEPIECE)) == JSON
        own = parse_hf_tokenizer_json(path) if is_json else PHI3_SPECIAL_TOKENS
        needed = ("<|endoftext|>", "<|end|>", *(f"<|{role}|>" for role in _ROLES))
        self._set_up(path, special_tokens or own, needed, max_seq_len, prompt_template, truncation_type)
        self._words = PlainTextTokenizer(path, "<s>", "<|endoftext|>") if is_json else SentencePieceBaseTokenizer(path)
        self.eos_id = self.pad_id = self.special_tokens["<|endoftext|>"]
        self.stop_tokens = [self.special_tokens[name] for name in ("<|endoftext|>", "<|end|>", "<|assistant|>")]

    @property
    def vocab_size(self) -> int:
        """One more than the largest id; the models' embeddings have more rows."""
        return max(self._words.vocab_size, *(number + 1 for number in self.special_tokens.values()))

    @property
    def bos_id(self) -> int:
        """``<s>``; no dialogue begins with it."""
        return self._words.bos_id

    def encode(
        self, text: str, add_bos: bool = True, add_eos: bool = True, trim_leading_whitespace: bool = False
    ) -> list[int]:
        """The ids of a text; see :meth:`SentencePieceBaseTokenizer.encode`."""
        ids = self._words.encode(text, False, False, trim_leading_whitespace)
        return [self.bos_id] * add_bos + ids + [self.eos_id] * add_eos

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of the ids; special tokens by their names, unless they are skipped."""
        names = {number: name for name, number in self.special_tokens.items()}
        if skip_special_tokens:
            return self._words.decode([token for token in ids if token not in names])
        runs = ((name, list(run)) for name, run in groupby(ids, names.get))
        return "".join(self._words.decode(run) if name is None else name * len(run) for name, run in runs)

    def _ids_of(self, role: Role, text: str, is_open: bool) -> list[int]:
        ids = [self.special_tokens[f"<|{role}|>"], *self.encode(text.lstrip(), add_bos=False, add_eos=False)]
        return ids if is_open else [*ids, self.special_tokens["<|end|>"]]


class Phi4Tokenizer(_PhiTokenizer):
    """Phi 4's words and dialogues; text that looks like a special token stays text.

    As in Phi 3, a special token takes up white space, here that on both its sides.

    Args:
        vocab_path: ``vocab.json``, or ``tokenizer.json``, which needs no ``merges_path``.
        merges_path: ``merges.txt``.
        special_tokens: name -> id; None for those of ``tokenizer.json``, or Phi 4's own.
        max_seq_len: tokens; longer dialogues are cut. None cuts nothing.
        prompt_template: text put around messages, besides the special tokens.
        truncation_type: the side that is cut away, "right" or "left".

    Raises:
        ConfigError: a special token that the format needs is missing.
    """

    def __init__(
        self,
        vocab_path: str,
        merges_path: str | None = None,
        special_tokens: dict[str, int] | None = None,
        max_seq_len: int | None = None,
        prompt_template: PromptTemplateInterface | None = None,
        truncation_type: str = "right",
    ) -> None:
        if merges_path is None:
            self._words = load_tokenizer_json(vocab_path)
            given = special_tokens or parse_hf_tokenizer_json(vocab_path)
        else:
            given = special_tokens or PHI4_SPECIAL_TOKENS
            self._words = byte_pair_tokenizer(vocab_path, merges_path, pattern=PHI4_PATTERN, special_tokens=given)
        self._words.encode_special_tokens = True
        needed = ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>")
        self._set_up(vocab_path, given, needed, max_seq_len, prompt_template, truncation_type)
        self.bos_id, self.eos_id = self.special_tokens["<|endoftext|>"], self.special_tokens["<|im_end|>"]
        self.pad_id = self.special_tokens.get("<|dummy_85|>", self.bos_id)
        self.stop_tokens = [self.eos_id, self.bos_id]

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._words.encode_special_tokens = True  # the library does not pickle it

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._words.get_vocab().values()) + 1

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The ids of a text."""
        return [self.bos_id] * add_bos + encode_ids(self._words, text) + [self.eos_id] * add_eos

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of the ids; special tokens by their names, unless they are skipped."""
        return self._words.decode(ids, skip_special_tokens=skip_special_tokens)

    def _ids_of(self, role: Role, text: str, is_open: bool) -> list[int]:
        start, separator, end = (self.special_tokens[f"<|im_{name}|>"] for name in ("start", "sep", "end"))
        text = text.lstrip() if is_open else text.strip()
        ids = [start, *encode_ids(self._words, role), separator, *encode_ids(self._words, text)]
        return ids if is_open else [*ids, end]


def _role(message: Message) -> Role:
    if message.role not in _ROLES:
        raise DataError(f"Phi's dialogues have the roles {', '.join(_ROLES)}; a message has {message.role!r}")
    return message.role


def _text(message: Message) -> str:
    return "".join(map(text_of, message.content))


def phi3_mini_tokenizer(
    path: str,
    special_tokens_path: str | None = None,
    max_seq_len: int | None = None,
    prompt_template: str | dict[Role, tuple[str, str]] | None = None,
    truncation_type: str = "right",
) -> Phi3MiniTokenizer:
    """Phi 3's tokenizer, as configs name it; for the arguments see :class:`Phi3MiniTokenizer`.

    Args:
        special_tokens_path: a ``tokenizer.json`` whose special tokens are taken.
        prompt_template: dotted path to a template, or role -> [text before, text after].
    """
    special_tokens = None if special_tokens_path is None else parse_hf_tokenizer_json(special_tokens_path)
    template = _get_prompt_template(prompt_template)
    return Phi3MiniTokenizer(path, special_tokens, max_seq_len, template, truncation_type)


def phi4_tokenizer(
    vocab_path: str | None = None,
    merges_path: str | None = None,
    special_tokens_path: str | None = None,
    max_seq_len: int | None = None,
    prompt_template: str | dict[Role, tuple[str, str]] | None = None,
    truncation_type: str = "right",
) -> Phi4Tokenizer:
    """Phi 4's tokenizer, as configs name it; for the arguments see :class:`Phi4Tokenizer`.

    Args:
        special_tokens_path: a ``tokenizer.json`` whose special tokens are taken.
        prompt_template: dotted path to a template, or role -> [text before, text after].

    Raises:
        ConfigError: ``vocab_path`` is left out.
    """
    if vocab_path is None:
        raise ConfigError("phi4_tokenizer needs vocab_path: a vocab.json with its merges_path, or a tokenizer.json")
    special_tokens = None if special_tokens_path is None else parse_hf_tokenizer_json(special_tokens_path)
    template = _get_prompt_template(prompt_template)
    return Phi4Tokenizer(vocab_path, merges_path, special_tokens, max_seq_len, template, truncation_type)
