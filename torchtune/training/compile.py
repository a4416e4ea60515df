"""torch.compile applied so that no module is wrapped and no parameter's name changes."""

import logging
import os

from torch import nn

from torchtune.modules.cross_attention import TransformerCrossAttentionLayer
from torchtune.modules.transformer import TransformerSelfAttentionLayer
from torchtune.utils import log_rank_zero

logger = logging.getLogger(__name__)

_LAYERS = (TransformerSelfAttentionLayer, TransformerCrossAttentionLayer)


def compile_model(model: nn.Module, verbose: bool = True) -> None:
    """Compile each decoder layer in place, so that equal layers share one compilation; else the whole model."""
    if verbose:
        log_rank_zero(logger, "Compiling model layers with torch.compile...")
    layers = [module for module in model.modules() if isinstance(module, _LAYERS)]
    for module in layers or [model]:
        module.compile(backend=_backend())


def compile_loss(loss: nn.Module, verbose: bool = True) -> nn.Module:
    """``loss`` itself, compiled in place; a loss that says itself what of it to compile is asked to."""
    if verbose:
        log_rank_zero(logger, "Compiling loss with torch.compile...")
    if hasattr(loss, "apply_compile_strategy"):
        loss.apply_compile_strategy(backend=_backend())
    else:
        loss.compile(backend=_backend())
    return loss


def _backend() -> str:
    return os.environ.get("TORCH_COMPILE_BACKEND", "inductor")
