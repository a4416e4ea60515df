"""Mistral 7B, Nemo and Small. Rows: ``config.json`` of each checkpoint at https://huggingface.co/mistralai."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._family import Family
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules import TransformerDecoder

__all__ = [
    "lora_mistral", "lora_mistral_7b", "lora_mistral_classifier", "lora_mistral_reward_7b", "mistral", "mistral_7b",
    "mistral_classifier", "mistral_reward_7b", "qlora_mistral_7b", "qlora_mistral_reward_7b",
]  # fmt: skip


def _arch(config: Mapping[str, Any]) -> Arch:
    return Arch.from_hf(config, windows=(config.get("sliding_window"),))


MISTRAL = Family(name="mistral", arch=_arch, hf=WeightMap(HF_DECODER))

# Version 0.1 looks back 4096 tokens only; the later ones, and torchtune, have no window.
_7B = {
    "vocab_size": 32_000,
    "num_layers": 32,
    "num_heads": 32,
    "num_kv_heads": 8,
    "embed_dim": 4096,
    "intermediate_dim": 14_336,
    "max_seq_len": 32_768,
    "norm_eps": 1e-5,
}


def mistral(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-5,
    rope_base: float = 10_000,
) -> TransformerDecoder:
    """A Mistral decoder of any size, without a window.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
    """
    return build_decoder(Arch.with_rope(**locals()))


def mistral_classifier(
    num_classes: int,
    *,
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-5,
    rope_base: float = 10_000,
) -> TransformerDecoder:
    """A Mistral decoder whose output is ``num_classes`` scores per token, [B, S, num_classes]."""
    return build_decoder(Arch.with_rope(**locals()))


def mistral_7b() -> TransformerDecoder:
    """Mistral 7B."""
    return build_decoder(Arch.with_rope(**_7B))


def mistral_reward_7b() -> TransformerDecoder:
    """A reward model on Mistral 7B: one score per token."""
    return build_decoder(Arch.with_rope(**_7B, num_classes=1))


lora_mistral = with_lora(mistral)
lora_mistral_7b = with_lora(mistral_7b)
lora_mistral_classifier = with_lora(mistral_classifier)
lora_mistral_reward_7b = with_lora(mistral_reward_7b)
qlora_mistral_7b = partial(lora_mistral_7b, quantize_base=True)
qlora_mistral_reward_7b = partial(lora_mistral_reward_7b, quantize_base=True)
