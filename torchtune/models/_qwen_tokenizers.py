"""The tokenizers of Qwen 2, 2.5 and 3: their special tokens and the forms of their dialogues.

Names, numbers and forms: ``tokenizer_config.json`` beside each checkpoint at https://huggingface.co/Qwen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from torchtune.data._messages import TOOL_ROLES, Message, Role
from torchtune.data._prompt_templates import PromptTemplateInterface, _get_prompt_template
from torchtune.errors import ConfigError
from torchtune.modules.transforms import Transform
from torchtune.modules.transforms.tokenizers import ModelTokenizer, parse_hf_tokenizer_json
from torchtune.modules.transforms.tokenizers._byte_pairs import byte_pair_tokenizer
from torchtune.modules.transforms.tokenizers._tokenizer_json import encode_ids, load_tokenizer_json
from torchtune.modules.transforms.tokenizers._utils import (
    apply_template,
    check_truncation_type,
    text_beside_calls,
    text_of,
    tokenize_sample,
    truncate_dialogue,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# https://huggingface.co/Qwen/Qwen2-7B/blob/main/tokenizer.json
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTROL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
# What a message or a file of code may contain: these are tokens wherever a text has them.
_WRITTEN_IN_TEXT = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
QWEN3_SPECIAL_TOKENS: dict[str, int] = {
    name: index for index, name in enumerate((*_CONTROL, *_WRITTEN_IN_TEXT), start=151_643)
}
QWEN2_5_SPECIAL_TOKENS = dict(list(QWEN3_SPECIAL_TOKENS.items())[:-4])
QWEN2_SPECIAL_TOKENS = dict(list(QWEN3_SPECIAL_TOKENS.items())[:3])

# What Qwen 2.5 and 3 were trained to read: the chat template of https://huggingface.co/Qwen/Qwen2.5-7B-Instruct.
_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>{}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML "
    'tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


class _Turn(NamedTuple):
    """What stands between ``<|im_start|>`` and ``<|im_end|>``, without the line that names the role."""

    role: str
    text: str
    masked: bool
    calls: str = ""  # of tools

    @property
    def content(self) -> str:
        return "\n".join(filter(None, (self.text, self.calls)))


class Qwen2Tokenizer(ModelTokenizer, Transform):
    """Qwen 2's words and dialogues; text that looks like ``<|im_end|>`` stays text.

    Args:
        path: ``vocab.json``, or ``tokenizer.json``, which needs no ``merges_file``.
        merges_file: ``merges.txt``.
        special_tokens: name -> id; None for the model's own, or those of ``tokenizer.json``.
        max_seq_len: tokens; longer dialogues are cut. None cuts nothing.
        prompt_template: text put around messages, besides the special tokens.
        errors: only "replace": what is no UTF-8 is decoded as U+FFFD.
        unk_token: stands for a byte that ``vocab.json`` lacks (the models' own lack none).
        bos_token: begins a text; Qwen has no such token.
        eos_token: ends a text, or a dialogue that is cut.
        bpe_cache_size: words split by ``merges_file`` whose ids are remembered; more is faster and takes more memory.
        truncation_type: the side that is cut away, "right" or "left".
        default_system: the system message of dialogues that begin without one, never trained on. None is what the
            model's chat template says, an empty text none at all.

    Raises:
        ConfigError: a special token that is needed is missing, or an argument does not go with the files.
        DataError: a file is not what it should be.
    """

    _own_tokens: dict[str, int] = QWEN2_SPECIAL_TOKENS
    _own_system = "You are a helpful assistant."

    def __init__(
        self,
        path: str,
        merges_file: str | None = None,
        special_tokens: dict[str, int] | None = None,
        max_seq_len: int | None = None,
        *,
        prompt_template: PromptTemplateInterface | None = None,
        errors: str = "replace",
        unk_token: str | None = None,
        bos_token: str | None = None,
        eos_token: str = "<|im_end|>",
        pad_token: str | None = "<|endoftext|>",
        bpe_cache_size: int = 152_064,
        truncation_type: str = "right",
        default_system: str | None = None,
    ) -> None:
        check_truncation_type(truncation_type)
        if errors != "replace":
            raise ConfigError(f"errors is {errors!r}; these tokenizers decode with 'replace' only")
        if merges_file is None:
            self._words = load_tokenizer_json(path)
            self.special_tokens = special_tokens or parse_hf_tokenizer_json(path)
        else:
            self.special_tokens = dict(special_tokens or self._own_tokens)
            self._words = _byte_pairs(path, merges_file, self.special_tokens, unk_token, bpe_cache_size)
        self._words.encode_special_tokens = True
        self._check_special_tokens(path, {"<|im_start|>", "<|im_end|>", eos_token, bos_token, pad_token, unk_token})
        ids = self.special_tokens.get
        self.im_start_id, self.im_end_id, self.eos_id = ids("<|im_start|>"), ids("<|im_end|>"), ids(eos_token)
        self.bos_id, self.pad_id, self.unk_id = ids(bos_token), ids(pad_token), ids(unk_token)
        ends = (self.eos_id, self.im_end_id, ids("<|endoftext|>"))
        self.stop_tokens = [index for index in dict.fromkeys(ends) if index is not None]
        self.max_seq_len = max_seq_len
        self.prompt_template = prompt_template
        self.truncation_type = truncation_type
        self.default_system = self._own_system if default_system is None else default_system
        self._close = [self.im_end_id, *self._ids("\n")]

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._words.encode_special_tokens = True  # the library does not pickle it

    def _check_special_tokens(self, path: str, needed: set[str | None]) -> None:
        if missing := sorted(needed - {None} - self.special_tokens.keys()):
            raise ConfigError(
                f"the special tokens for {path} lack {', '.join(missing)}; they are {', '.join(self.special_tokens)}"
            )
        for name, index in self.special_tokens.items():
            if (found := self._words.token_to_id(name)) != index:
                raise ConfigError(f"special_tokens says that {name} is {index}; {path} says {found}")

    @property
    def vocab_size(self) -> int:
        """One more than the largest id; the models' embeddings have more rows."""
        return max(self._words.get_vocab().values()) + 1

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """The ids of a text."""
        ids = [self.bos_id] if add_bos and self.bos_id is not None else []
        return [*ids, *self._ids(text), *([self.eos_id] if add_eos else [])]

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        """The text of the ids; special tokens by their names, unless they are skipped."""
        return self._words.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def tokenize_messages(
        self, messages: list[Message], *, add_end_tokens: bool = True
    ) -> tuple[list[int], list[bool]]:
        """Tokens of a dialogue and its mask, in which True means: not trained on.

        Args:
            add_end_tokens: False leaves a last message of the assistant open, or begins one, for the model to go on.
        """
        messages = apply_template(self.prompt_template, messages, inference=not add_end_tokens)
        if self.default_system and messages and messages[0].role != "system":
            messages = [Message("system", self.default_system, masked=True), *messages]
        begun = None
        if not add_end_tokens:
            is_begun = messages and messages[-1].role == "assistant"
            *messages, begun = messages if is_begun else [*messages, Message("assistant", "")]
        tokens: list[int] = []
        mask: list[bool] = []
        for turn in self._turns(messages):
            tokens += [*self._open(turn.role, turn.content), *self._close]
            mask += [turn.masked] * (len(tokens) - len(mask))
        if begun is not None:
            tokens += self._open("assistant", _text(begun))
            mask += [begun.masked] * (len(tokens) - len(mask))
        eos_id = self.eos_id if add_end_tokens else None
        return truncate_dialogue(tokens, mask, self.max_seq_len, self.truncation_type, eos_id)

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> Mapping[str, Any]:
        """The sample with ``tokens`` and ``mask`` in place of ``messages``; at inference the last one stays open."""
        return tokenize_sample(self, sample, inference)

    def _turns(self, messages: list[Message]) -> list[_Turn]:
        """What the dialogue has between its special tokens; tool results are turns of their own."""
        return [_Turn("tool" if m.role in TOOL_ROLES else m.role, _text(m), m.masked) for m in messages]

    def _open(self, role: str, text: str) -> list[int]:
        # In one piece, since line breaks at the beginning of a text make one word with the one after the role.
        return [self.im_start_id, *self._ids(f"{role}\n{text}")]

    def _ids(self, text: str) -> list[int]:
        return encode_ids(self._words, text)


class Qwen2_5Tokenizer(Qwen2Tokenizer):
    """Qwen 2.5's words and dialogues: tool calls, and a text that is one (``ipython``), stand in ``<tool_call>``,
    results in ``<tool_response>``, those in a row in one turn of the user, which is masked if all of them are. What
    tools there are is told in the system message.

    For the arguments see :class:`Qwen2Tokenizer`.
    """

    _own_tokens = QWEN2_5_SPECIAL_TOKENS
    _own_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

    def tokenize_messages(
        self,
        messages: list[Message],
        *,
        add_end_tokens: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[list[int], list[bool]]:
        """See :meth:`Qwen2Tokenizer.tokenize_messages`; ``tools`` are schemas of the functions that may be called."""
        messages = self._told(messages, tools) if tools else messages
        return super().tokenize_messages(messages, add_end_tokens=add_end_tokens)

    def _told(self, messages: list[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
        functions = "".join(f"\n{json.dumps(tool, ensure_ascii=False)}" for tool in tools)
        text, masked = _TOOLS.replace("{}", functions), True
        if messages and messages[0].role == "system":
            text, masked = f"{_text(messages[0])}\n\n{text}", messages[0].masked
            messages = messages[1:]
        elif self.default_system:
            text = f"{self.default_system}\n\n{text}"
        return [Message("system", text, masked), *messages]

    def _turns(self, messages: list[Message]) -> list[_Turn]:
        turns = []
        for are_results, run in groupby(messages, key=lambda message: message.role in TOOL_ROLES):
            if are_results:
                results = list(run)
                text = "\n".join(_tagged("tool_response", _text(message)) for message in results)
                turns.append(_Turn("user", text, all(message.masked for message in results)))
            else:
                turns += [_with_calls(message) for message in run]
        return turns


class Qwen3Tokenizer(Qwen2_5Tokenizer):
    """Qwen 3's words and dialogues, in which answers before the user's last question stand without their thoughts, and
    the last answer with them, be they empty: an answer's text may begin with ``<think>...</think>``.

    For the arguments see :class:`Qwen2Tokenizer`.
    """

    _own_tokens = QWEN3_SPECIAL_TOKENS
    _own_system = ""

    def _turns(self, messages: list[Message]) -> list[_Turn]:
        turns = super()._turns(messages)
        asked = max((i for i, turn in enumerate(turns) if _is_question(turn)), default=len(turns))
        for i, turn in enumerate(turns):
            if turn.role == "assistant":
                thoughts, answer = _thoughts_and_answer(turn.text)
                calls = turn._replace(text=answer).content[len(answer) :]
                if i > asked and (thoughts or i == len(turns) - 1):
                    answer = f"<think>\n{thoughts}\n</think>\n\n" + answer.lstrip("\n")
                turns[i] = turn._replace(text=answer + calls, calls="")
        return turns


def qwen2_tokenizer(
    path: str,
    merges_file: str | None = None,
    special_tokens_path: str | None = None,
    max_seq_len: int | None = None,
    prompt_template: str | dict[Role, tuple[str, str]] | None = None,
    truncation_type: str = "right",
    *,
    errors: str = "replace",
    unk_token: str | None = None,
    bos_token: str | None = None,
    eos_token: str = "<|im_end|>",
    pad_token: str | None = "<|endoftext|>",
    bpe_cache_size: int = 152_064,
    default_system: str | None = None,
    tokenizer_class: type[Qwen2Tokenizer] = Qwen2Tokenizer,
) -> Qwen2Tokenizer:
    """The tokenizer of Qwen 2, as configs name it; for the other arguments see :class:`Qwen2Tokenizer`.

    Args:
        special_tokens_path: a ``tokenizer.json`` whose special tokens are taken.
        prompt_template: dotted path to a template, or role -> [text before, text after].
        tokenizer_class: that of another generation of Qwen.
    """
    given = locals()
    for name in ("special_tokens_path", "prompt_template", "tokenizer_class"):
        del given[name]
    special_tokens = None if special_tokens_path is None else parse_hf_tokenizer_json(special_tokens_path)
    template = _get_prompt_template(prompt_template)
    return tokenizer_class(special_tokens=special_tokens, prompt_template=template, **given)


qwen2_5_tokenizer = partial(qwen2_tokenizer, tokenizer_class=Qwen2_5Tokenizer)
qwen3_tokenizer = partial(qwen2_tokenizer, tokenizer_class=Qwen3Tokenizer)


def _byte_pairs(
    path: str, merges_file: str, special_tokens: Mapping[str, int], unk_token: str | None, cache_size: int
) -> Tokenizer:
    return byte_pair_tokenizer(
        path,
        merges_file,
        pattern=QWEN_PATTERN,
        special_tokens=special_tokens,
        written_in_text=_WRITTEN_IN_TEXT,
        normal_form="NFC",
        unk_token=unk_token,
        cache_size=cache_size,
    )


def _text(message: Message) -> str:
    return "".join(map(text_of, message.content))


def _with_calls(message: Message) -> _Turn:
    if message.ipython:
        return _Turn(message.role, _tagged("tool_call", _text(message)), message.masked)
    calls = ({"name": call["name"], "arguments": call["arguments"]} for call in message.tool_calls)
    written = "\n".join(_tagged("tool_call", json.dumps(call, ensure_ascii=False)) for call in calls)
    return _Turn(message.role, text_beside_calls(message), message.masked, written)


def _tagged(tag: str, text: str) -> str:
    return f"<{tag}>\n{text}\n</{tag}>"


def _is_question(turn: _Turn) -> bool:
    """Whether it is from the user, and not the result of a tool."""
    is_result = turn.text.startswith("<tool_response>") and turn.text.endswith("</tool_response>")
    return turn.role == "user" and not is_result


def _thoughts_and_answer(text: str) -> tuple[str, str]:
    before, mark, _ = text.partition("</think>")
    if not mark:
        return "", text
    return before.rpartition("<think>")[2].strip("\n"), text.rpartition("</think>")[2].lstrip("\n")
