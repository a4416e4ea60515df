"""ToxicChat as Llama Guard 3 is asked about it: a policy and a user's message in, ``safe`` or a category out."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from llama_recipes.configs import datasets as settings
from llama_recipes.datasets._prompted import Prompted, PromptedDataset
from torchtune.datasets import PackedDataset, PackedStream
from torchtune.datasets._arguments import LoadArguments
from torchtune.datasets._packed_stream import pack_to_fit
from torchtune.datasets._plain_text import text_in
from torchtune.datasets._rows import Row
from torchtune.errors import ConfigError, DataError

# https://www.llama.com/docs/model-cards-and-prompt-formats/llama-guard-3/
CATEGORIES = (
    "Violent Crimes", "Non-Violent Crimes", "Sex Crimes", "Child Exploitation", "Defamation", "Specialized Advice",
    "Privacy", "Intellectual Property", "Indiscriminate Weapons", "Hate", "Self-Harm", "Sexual Content", "Elections",
    "Code Interpreter Abuse",
)  # fmt: skip
_POLICY = "\n".join(f"S{number}: {name}." for number, name in enumerate(CATEGORIES, 1))
_QUESTION = (
    "Task: Check if there is unsafe content in 'User' messages in conversations according our safety policy with the "
    f"below categories.\n\n<BEGIN UNSAFE CONTENT CATEGORIES>\n{_POLICY}\n<END UNSAFE CONTENT CATEGORIES>\n\n"
    "<BEGIN CONVERSATION>\n\nUser: {message}\n\n<END CONVERSATION>\n\n"
    "Provide your safety assessment for ONLY THE LAST User message in the above conversation:\n"
    " - First line must read 'safe' or 'unsafe'.\n"
    " - If unsafe, a second line must include a comma-separated list of violated categories. "
)
# Categories of OpenAI's moderation, in which ToxicChat's rows are scored -> codes of the policy; one such as
# "hate/threatening" that is not here is what stands before its slash.
_CODES = {
    "sexual": "S12", "sexual/minors": "S4", "violence": "S1", "self-harm": "S11", "hate": "S10", "harassment": "S10",
}  # fmt: skip
_SOURCE, _EDITION = settings.llamaguard_toxicchat_dataset.source, "toxicchat0124"
_SPECIAL = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


class _ToxicChat(PromptedDataset):
    """Both turns in Llama 3's chat format, whatever template the tokenizer has: Llama Guard's own writes no answers."""

    def __init__(self, tokenizer: Any, source: str, **options: Any) -> None:
        ids: Mapping[str, int] = getattr(tokenizer, "special_tokens", None) or {}
        if missing := [name for name in _SPECIAL if name not in ids]:
            raise ConfigError(
                f"llamaguard_toxicchat_dataset needs the tokenizer of a Llama 3 or a Llama Guard 3; {missing[0]} is no "
                "token of this one"
            )
        self._header, self._header_end, self._turn_end = (ids[name] for name in _SPECIAL)
        super().__init__(tokenizer, source, **options)

    def read(self, row: Row) -> Prompted:
        message = text_in(row, "user_input")
        return Prompted(_QUESTION.format(message=message), _verdict(row))

    def tokens(self, content: Prompted) -> tuple[list[int], int]:
        prompt = self._tokenizer.encode("", add_bos=True, add_eos=False)
        prompt += [*self._begin("user"), *self._text(content.prompt), self._turn_end, *self._begin("assistant")]
        return [*prompt, *self._text(content.answer), self._turn_end], len(prompt)

    def _begin(self, role: str) -> list[int]:
        return [self._header, *self._text(role), self._header_end, *self._text("\n\n")]

    def _text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_bos=False, add_eos=False)


def llamaguard_toxicchat_dataset(
    tokenizer: Any,
    *,
    source: str = _SOURCE,
    split: str = "train",
    train_on_input: bool = False,
    packed: bool | str = False,
    split_across_pack: bool = False,
    filter_fn: Callable | None = None,
    **load_dataset_kwargs: Unpack[LoadArguments],
) -> PromptedDataset | PackedDataset | PackedStream:
    """Users' messages with a verdict: https://huggingface.co/datasets/lmsys/toxic-chat.

    The columns are ``user_input``, ``toxicity`` (0 or 1) and ``openai_moderation`` (category and score pairs, as JSON);
    the category of a toxic message is the one with the highest score, and none where there are no scores.

    Args:
        source: the dataset, of which edition 0124 is taken, or a local copy
        split, train_on_input, packed, split_across_pack, filter_fn, load_dataset_kwargs: see :func:`samsum_dataset`

    Raises:
        ConfigError: the tokenizer has not Llama 3's special tokens
    """
    if source == _SOURCE:
        load_dataset_kwargs.setdefault("name", _EDITION)
    dataset = _ToxicChat(
        tokenizer, source, train_on_input=train_on_input, filter_fn=filter_fn, split=split, **load_dataset_kwargs
    )
    return pack_to_fit(dataset, tokenizer, packed, split_across_pack=split_across_pack)


def _verdict(row: Row) -> str:
    if row["toxicity"] not in (0, 1):
        raise DataError(f"'toxicity' is {row['toxicity']!r}; expected 0 or 1")
    scores = row["openai_moderation"]
    scores = json.loads(scores) if isinstance(scores, str) else scores
    if not row["toxicity"]:
        return "safe"
    return f"unsafe\n{_code(max(scores, key=lambda pair: pair[1])[0])}" if scores else "unsafe"


def _code(category: str) -> str:
    code = _CODES.get(category) or _CODES.get(category.partition("/")[0])
    if code is None:
        raise DataError(f"'openai_moderation' names {category!r}; known are {', '.join(_CODES)}")
    return code
