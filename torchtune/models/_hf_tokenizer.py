"""The tokenizer of every checkpoint that comes with ``tokenizer.json`` and a chat template of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer


def hf_tokenizer(
    path: str,
    max_seq_len: int | None = None,
    truncation_type: str = "right",
    chat_template_kwargs: Mapping[str, Any] | None = None,
    today: str | None = None,
) -> HuggingFaceModelTokenizer:
    """The tokenizer and the chat template of a checkpoint, as configs name them.

    Args:
        path: ``tokenizer.json``, or the folder that it lies in.
        max_seq_len: tokens; None cuts nothing.
        truncation_type: the side that is cut from a longer dialogue, "right" or "left".
        chat_template_kwargs: further variables of the template, for example ``{"enable_thinking": False}``.
        today: the date, as 2025-01-31, for templates that write it; None is the clock's.

    Raises:
        ConfigError: there is no such file.
        DataError: the tokenizer has no chat template beside it.
    """
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else path
    return HuggingFaceModelTokenizer(
        file,
        max_seq_len=max_seq_len,
        truncation_type=truncation_type,
        chat_template_kwargs=chat_template_kwargs,
        today=today,
    )
