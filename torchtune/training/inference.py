"""A trained model, ready to be asked, from what a config says of it."""

from functools import partial
from typing import Any

import torch
from torch import nn

from torchtune import config
from torchtune.config.schema import InferenceConfig
from torchtune.errors import ConfigError
from torchtune.modules import TransformerDecoder
from torchtune.modules.peft import adapter_names
from torchtune.training.adapters import BaseWeights, load_adapters
from torchtune.training.check_model import check_model
from torchtune.training.checkpointing import Checkpointer, FullModelHFCheckpointer, check_vocabulary
from torchtune.training.distributed import World
from torchtune.training.model import load_model
from torchtune.training.precision import get_dtype
from torchtune.training.quantization import Quantizer, is_quantised, load_quantised, make_quantizer
from torchtune.training.setup import text_vocab_size
from torchtune.utils import get_device


def load_for_inference(cfg: InferenceConfig) -> tuple[TransformerDecoder, Any]:
    """The model with its weights, in evaluation mode on its device, and the tokenizer.

    Adapters are read from ``checkpointer.adapter_checkpoint``, or else from beside the weights. Weights that are
    quantised stay so; others are, if the config names a quantizer.

    Raises:
        ConfigError: an adapter is named, and the model has no place for one; or the quantizer cannot work.
        CheckpointError: the weights or the adapter are not those of the model.
    """
    device = get_device(cfg.device)
    tokenizer = config.instantiate(cfg.tokenizer)
    checkpointer = config.instantiate(cfg.checkpointer)
    load = _load_quantised if is_quantised(checkpointer) else _load
    model = load(cfg, checkpointer, device, None if cfg.quantizer is None else make_quantizer(cfg.quantizer))
    check_vocabulary(model.tok_embeddings.num_embeddings, text_vocab_size(tokenizer))
    return model.eval(), tokenizer


def _load(
    cfg: InferenceConfig, checkpointer: Checkpointer, device: torch.device, quantizer: Quantizer | None
) -> TransformerDecoder:
    adapter = cfg.checkpointer.get("adapter_checkpoint")

    def prepare(model: nn.Module) -> None:
        _check_place_for(adapter, model)
        if quantizer is not None:
            quantizer.check(model, device)

    base = BaseWeights(checkpointer)
    build = partial(_build, cfg, checkpointer)
    dtype = get_dtype(cfg.dtype, device)
    model = load_model(build, base.weights, World(0, 1, device), dtype=dtype, prepare=prepare)
    if adapter_names(model):
        load_adapters(model, checkpointer, adapter, base)
    return model if quantizer is None else quantizer.quantize(model)


def _load_quantised(
    cfg: InferenceConfig, checkpointer: FullModelHFCheckpointer, device: torch.device, quantizer: Quantizer | None
) -> TransformerDecoder:
    build = partial(_build, cfg, checkpointer)
    return load_quantised(build, checkpointer, device, get_dtype(cfg.dtype, device), quantizer)


def _build(cfg: InferenceConfig, checkpointer: Checkpointer) -> TransformerDecoder:
    model = config.instantiate(cfg.model)
    check_model(model, checkpointer)
    return model


def _check_place_for(adapter: str | None, model: nn.Module) -> None:
    if adapter is not None and not adapter_names(model):
        raise ConfigError(
            f"checkpointer.adapter_checkpoint is {adapter}, but the model has no adapters; use the builder that the "
            "adapter was trained with (lora_...), or leave adapter_checkpoint out"
        )
