"""How a ``tokenizer.json`` cuts a text before it makes tokens of it, by the names that llama.cpp has for its own code
of that (https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torchtune.errors import CheckpointError
from torchtune.models._llama3_tokenizer import LLAMA3_PATTERN
from torchtune.models._qwen_tokenizers import QWEN_PATTERN

_Step = tuple[Any, ...]
_SPLIT, _BYTES, _DIGITS = "Split", "ByteLevel", "Digits"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE, _SPACES = r"[^\r\n\p{L}\p{N}]?", r"\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_OTHER = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
# https://huggingface.co/mistralai/Mistral-Nemo-Instruct-2407/blob/main/tokenizer.json
_TEKKEN_PATTERN = f"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\\p{{N}}|{_OTHER}|{_SPACES}"
# https://github.com/openai/tiktoken/blob/main/tiktoken_ext/openai_public.py: o200k_base
_O200K_PATTERN = (
    f"{_BEFORE}{_UPPER}*{_LOWER}+{_ENDING}|{_BEFORE}{_UPPER}+{_LOWER}*{_ENDING}|\\p{{N}}{{1,3}}|{_OTHER}|{_SPACES}"
)


class _Cutting(NamedTuple):
    """The steps, whether whole words are taken without merging, and the normal form that is made before."""

    steps: tuple[_Step, ...]
    takes_words: bool = False
    normal_form: str | None = None


_OWN_WORDS = (_BYTES, False, True)
_AFTER_SPLIT = (_BYTES, False, False)
_NAMES = {
    _Cutting(((_SPLIT, LLAMA3_PATTERN), _AFTER_SPLIT), takes_words=True): "llama-bpe",
    _Cutting(((_SPLIT, LLAMA3_PATTERN), _AFTER_SPLIT)): "dbrx",  # OLMo 2, Phi 4
    _Cutting(((_SPLIT, _TEKKEN_PATTERN), _AFTER_SPLIT), takes_words=True): "tekken",
    _Cutting(((_SPLIT, _O200K_PATTERN), _AFTER_SPLIT)): "gpt-4o",  # Phi 4 mini
    # llama.cpp does not make the normal form: what is written with combining accents has other tokens there.
    _Cutting(((_SPLIT, QWEN_PATTERN), _AFTER_SPLIT), normal_form="NFC"): "qwen2",
    _Cutting(((_DIGITS, True), _OWN_WORDS)): "smollm",  # SmolLM 2, Granite 3
    _Cutting((_OWN_WORDS,)): "gpt-2",
}
NOT_IN_TRANSFORMERS = ("smollm",)
"""What transformers 5.23 reads as if it were ``gpt-2``."""


def pre_tokenizer(content: Mapping[str, Any], path: Path) -> str:
    """The name, for the content of a ``tokenizer.json``.

    Raises:
        CheckpointError: none is known: with another the text would be cut into other tokens.
    """
    model, outer = content["model"], content.get("pre_tokenizer") or {"type": None}
    steps = outer["pretokenizers"] if outer["type"] == "Sequence" else [outer]
    normal_form = (content.get("normalizer") or {}).get("type")
    cutting = _Cutting(tuple(map(_step, steps)), bool(model.get("ignore_merges")), normal_form)
    name = _NAMES.get(cutting) if model.get("type", "BPE") == "BPE" else None
    if name is None:
        kinds = " + ".join(str(step["type"]) for step in steps)
        shown = ", ".join(str(step["pattern"]) for step in steps if step.get("pattern"))
        raise CheckpointError(
            f"{path} cuts texts in a way that is not known here by a name of llama.cpp: model {model.get('type')}, "
            f"normalizer {normal_form}, pre-tokenizer {kinds} {shown}, ignore_merges {cutting.takes_words}. Known are "
            f"{', '.join(sorted(_NAMES.values()))}; with a wrong one the model would be given other tokens than in "
            "training, so no GGUF file is written."
        )
    return name


def _step(step: Mapping[str, Any]) -> _Step:
    if step["type"] == _BYTES:
        return (_BYTES, step["add_prefix_space"], step.get("use_regex", True))
    # The patterns match all of a text, so that nothing lies between.
    if step["type"] == _SPLIT and (step["behavior"], step["invert"]) in (("Isolated", False), ("Removed", True)):
        return (_SPLIT, step["pattern"].get("Regex"))
    return (step["type"], step.get("individual_digits"))
