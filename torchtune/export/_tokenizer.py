"""How this library reads the tokenizer files of a folder: the words, the dialogues, and the format of its training."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torchtune.data import Message
from torchtune.errors import ConfigError
from torchtune.generation import encode_prompt
from torchtune.models.llama2 import Llama2Tokenizer
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.models.mistral import MistralTokenizer
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer
from torchtune.modules.transforms.tokenizers._chat_template import find_chat_template
from torchtune.modules.transforms.tokenizers._files import SENTENCEPIECE, TIKTOKEN, kind_of
from torchtune.modules.transforms.tokenizers._tokenizer_json import encode_ids, load_tokenizer_json
from torchtune.training.checkpointing._io import read_json

Dialogue = Sequence[Mapping[str, str]]

_MODELS = ("tokenizer.model", "original/tokenizer.model")
JSON = "tokenizer.json"


def file_of_kind(folder: Path, kind: str) -> Path | None:
    """The ``tokenizer.model`` of a folder, if it is of this kind; see ``_files``."""
    found = (folder / name for name in _MODELS)
    return next((path for path in found if path.is_file() and kind_of(path) == kind), None)


def trained_tokenizer(folder: Path) -> Llama2Tokenizer | Llama3Tokenizer | MistralTokenizer | None:
    """The tokenizer that recipes train a model of this folder with; None when it has no format of dialogues here."""
    config = folder / "config.json"
    model_type = read_json(config).get("model_type") if config.is_file() else "llama"
    find = {"llama": _of_llama, **dict.fromkeys(("ministral", "mistral", "mistral3"), _of_mistral)}.get(model_type)
    try:
        return find(folder) if find else None
    except ConfigError:  # it lacks the tokens that dialogues are made of
        return None


def _of_llama(folder: Path) -> Llama2Tokenizer | Llama3Tokenizer | None:
    if path := file_of_kind(folder, TIKTOKEN):
        return Llama3Tokenizer(str(path))
    if path := file_of_kind(folder, SENTENCEPIECE):
        return Llama2Tokenizer(str(path))
    return Llama3Tokenizer(str(folder / JSON)) if (folder / JSON).is_file() else None


def _of_mistral(folder: Path) -> MistralTokenizer | None:
    path = next((folder / name for name in ("tekken.json", "tokenizer.model", JSON) if (folder / name).is_file()), None)
    return MistralTokenizer(str(path), version="auto") if path else None


def encoder(folder: Path) -> Callable[[str], list[int]] | None:
    """Text to ids, as in training."""
    if tokenizer := trained_tokenizer(folder):
        return partial(tokenizer.encode, add_bos=False, add_eos=False)
    return partial(encode_ids, load_tokenizer_json(folder / JSON)) if (folder / JSON).is_file() else None


def template_of(folder: Path) -> str | None:
    """The source of the chat template."""
    return find_chat_template(folder, settings(folder))


def settings(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json``; empty without one."""
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def template_chat(folder: Path) -> Callable[[Dialogue], tuple[str, list[int]]] | None:
    """Dialogues by the folder's own chat template, as text and ids; None when it has none."""
    if template_of(folder) is None or not (folder / JSON).is_file():
        return None
    tokenizer = HuggingFaceModelTokenizer(folder / JSON)

    def chat(messages: Dialogue) -> tuple[str, list[int]]:
        text = tokenizer.render_template(list(messages), add_eos=False)
        return text, encode_ids(tokenizer.base_tokenizer.tokenizer, text)

    return chat


def trained_chat(folder: Path) -> Callable[[Dialogue], list[int]] | None:
    """Dialogues in the format of training, as ids."""
    tokenizer = trained_tokenizer(folder)
    if tokenizer is None:
        return None
    return lambda messages: encode_prompt(tokenizer, [Message(m["role"], m["content"]) for m in messages])


def special_ids(folder: Path) -> frozenset[int]:
    """The ids of the tokens that no text becomes."""
    if not (folder / JSON).is_file():
        return frozenset()
    added = load_tokenizer_json(folder / JSON).get_added_tokens_decoder()
    return frozenset(number for number, token in added.items() if token.special)
