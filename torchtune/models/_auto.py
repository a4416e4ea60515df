"""Any supported model from its own folder: what a Hugging Face folder says of itself makes the model and tokenizer."""

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from torchtune.errors import CheckpointError, ConfigError
from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, Parts, build_decoder
from torchtune.models._families import family_of
from torchtune.models._text_part import text_config
from torchtune.modules import TransformerDecoder
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer, ModelTokenizer
from torchtune.modules.transforms.tokenizers._chat_template import find_chat_template
from torchtune.modules.transforms.tokenizers._files import SENTENCEPIECE, kind_of

logger = logging.getLogger(__name__)

# Dialogues of a model that has no form of its own, in words and with the end token that it knows: the roles as
# https://arxiv.org/abs/2311.10702 (Tulu 2) writes them.
PLAIN_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message.role + '|>\\n' + message.content }}"
    "{{ eos_token if message.role == 'assistant' }}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
_TEXT_MODELS = ("ForCausalLM", "ForConditionalGeneration")  # how the names of their classes end
# ``model_type`` -> whose tokenizer reads the files of a folder that has no tokenizer.json.
_TOKENIZERS = {
    "gemma": "gemma.gemma_tokenizer",
    "gemma2": "gemma2.gemma_tokenizer",
    "gemma3_text": "gemma3.gemma_tokenizer",
    "mistral": "mistral.mistral_tokenizer",
    "phi3": "phi3.phi3_mini_tokenizer",
}
_TOKENIZER_FILES = ("tokenizer.model", "original/tokenizer.model", "tokenizer.model.v3", "tekken.json")


def auto(checkpoint_dir: str) -> TransformerDecoder:
    """The model of a Hugging Face folder, as its ``config.json`` describes it.

    Raises:
        CheckpointError: the folder is not one of Hugging Face's layout, or the model has something that is not known
            here; says what.
    """
    return build_decoder(*_described(Path(checkpoint_dir).expanduser()))


lora_auto = with_lora(auto)
qlora_auto = partial(lora_auto, quantize_base=True)


def auto_tokenizer(
    path: str,
    max_seq_len: int | None = None,
    chat_template: str | None = None,
    truncation_type: str = "right",
    *,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    today: str | None = None,
) -> ModelTokenizer:
    """The tokenizer of a Hugging Face folder, with its own chat template.

    A base model has none: its dialogues get the plain form of ``PLAIN_TEMPLATE``, which a warning says and a checkpoint
    carries along. A folder without ``tokenizer.json`` gets its family's own tokenizer and dialogues.

    Args:
        path: the folder.
        max_seq_len: tokens; None, or more than the model has positions, is as many as it has.
        chat_template, truncation_type, chat_template_kwargs, today: see :class:`HuggingFaceModelTokenizer`.

    Raises:
        CheckpointError: as for :func:`auto`.
        ConfigError: there is no tokenizer, or no such template.
    """
    folder = Path(path).expanduser()
    positions = _described(folder)[0].max_seq_len
    limit = min(max_seq_len or positions, positions)
    if (folder / "tokenizer.json").is_file():
        return HuggingFaceModelTokenizer(
            folder / "tokenizer.json",
            max_seq_len=limit,
            truncation_type=truncation_type,
            chat_template=_plain_template(folder) if chat_template is None else chat_template,
            chat_template_kwargs=chat_template_kwargs,
            today=today,
        )
    if chat_template or chat_template_kwargs:
        raise ConfigError(f"a chat template can be used only with a tokenizer.json, and {folder} has none")
    return _family_tokenizer(folder)(max_seq_len=limit, truncation_type=truncation_type)


def _described(folder: Path) -> tuple[Arch, Parts]:
    config = _config_of(folder)
    try:
        family = family_of(config)
    except CheckpointError as e:
        raise CheckpointError(f"{folder}: {_what_it_is(config)}{e}") from None
    classes = config.get("architectures") or ()
    if classes and not any(name.endswith(_TEXT_MODELS) for name in classes):
        raise CheckpointError(
            f"{folder}: config.json describes {', '.join(classes)}, and a folder's language model is expected "
            "(...ForCausalLM); for another head name the model's own builder, such as llama2_reward_7b"
        )
    try:
        return family.describe(config)
    except CheckpointError as e:
        raise CheckpointError(f"{folder}: {e}") from e


def _what_it_is(config: Mapping[str, Any]) -> str:
    """Why a model of an unknown type would not fit anyway; mostly nothing."""
    name = ", ".join(config.get("architectures") or ()) or "the model"
    if config.get("is_encoder_decoder"):
        return f"{name} is an encoder with a decoder, and only decoders are built here. "
    if any(key in config for key in ("vision_config", "audio_config", "text_config")):
        return f"{name} reads more than text, and only text models are built here. "
    if "auto_map" in config:
        return f"{name} needs the code that comes with it (auto_map), and nothing in a checkpoint is run here. "
    return f"{name} is not supported. "


def _config_of(folder: Path) -> Mapping[str, Any]:
    """The ``config.json`` of a folder, or of the language model in it; else an error that says what the folder is."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(_not_a_model(folder))
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as e:
        raise CheckpointError(f"{folder / 'config.json'} is not JSON: {e}; download it again") from e
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} is not a table of settings")
    return text_config(config)


def _not_a_model(folder: Path) -> str:
    wanted = "A folder with config.json, weights and tokenizer is expected, as `tune download` makes it."
    if folder.suffix == ".gguf":
        return f"{folder} is a GGUF file, which is for inference. {wanted}"
    if folder.is_file():
        return f"{folder} is a file. {wanted}"
    if not folder.is_dir():
        is_name = len(folder.parts) == 2 and not folder.parent.exists()
        fetch = f"tune download {folder} --output-dir PATH" if is_name else "tune download MODEL --output-dir PATH"
        return f"there is no folder {folder}. If it is a model on the Hub, fetch it: {fetch}; then checkpoint_dir=PATH"
    names = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in names or "adapter_model.pt" in names:
        return f"{folder} holds an adapter and no model. {wanted} The adapter goes to checkpointer.adapter_checkpoint."
    if "params.json" in names or any(name.endswith(".pth") for name in names):
        return (
            f"{folder} is in Meta's format, which has no config.json. {wanted} Meta's own is read by "
            "FullModelMetaCheckpointer and the model's own builder, as in the config llama3/8B_lora."
        )
    if any(name.endswith(".gguf") for name in names):
        return f"{folder} holds GGUF files, which are for inference. {wanted}"
    inner = sorted(path.parent for pattern in ("*", "snapshots/*") for path in folder.glob(f"{pattern}/config.json"))
    hint = f" Perhaps {inner[-1]}?" if inner else ""
    return f"{folder} has no config.json.{hint} {wanted}"


def _plain_template(folder: Path) -> str | None:
    """The form of dialogues for a folder that has none; None where it has its own."""
    if find_chat_template(folder) is not None:
        return None
    logger.warning(
        "%s has no chat template, as base models do: dialogues are written with <|user|> and <|assistant|> in plain "
        "text. tokenizer.chat_template names another: a Jinja file, or the folder of a model that has one.",
        folder,
    )
    return PLAIN_TEMPLATE


def _family_tokenizer(folder: Path) -> Callable[..., ModelTokenizer]:
    """The builder of the tokenizer for a folder without ``tokenizer.json``, given its file."""
    model_type = _config_of(folder)["model_type"]
    file = next((folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()), None)
    if file is not None and model_type == "llama":
        place = "llama2.llama2_tokenizer" if kind_of(file) == SENTENCEPIECE else "llama3.llama3_tokenizer"
    else:
        place = _TOKENIZERS.get(model_type)
    if file is None or place is None:
        raise ConfigError(
            f"{folder} has no tokenizer.json. Python writes it: from transformers import AutoTokenizer; "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    logger.info("%s has no tokenizer.json: %s is read by %s.", folder, file.name, place)
    module, _, name = place.partition(".")
    build = getattr(import_module(f"torchtune.models.{module}"), name)
    # Mistral's builder alone writes torchtune's plain dialogues; the file knows the model's own.
    return partial(build, str(file), **({"version": "auto"} if build.__name__ == "mistral_tokenizer" else {}))
