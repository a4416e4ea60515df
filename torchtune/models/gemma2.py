"""Gemma 2 (https://arxiv.org/abs/2408.00118). Rows: ``config.json`` of each checkpoint at
https://huggingface.co/google.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torchtune.errors import CheckpointError
from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, Parts, build_decoder, sandwich_layer
from torchtune.models._family import Family
from torchtune.models._gemma_tokenizer import GemmaTokenizer, gemma_tokenizer
from torchtune.models._hf_config import layer_types
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.models.gemma import PARTS, SHARED
from torchtune.modules import TransformerDecoder
from torchtune.modules.soft_cap import SoftCap

__all__ = [
    "GemmaTokenizer", "gemma2", "gemma2_2b", "gemma2_9b", "gemma2_27b", "gemma_tokenizer", "lora_gemma2",
    "lora_gemma2_2b", "lora_gemma2_9b", "lora_gemma2_27b", "qlora_gemma2_2b", "qlora_gemma2_9b", "qlora_gemma2_27b",
]  # fmt: skip

SANDWICH_NORMS = {
    "model.layers.{}.post_attention_layernorm.weight": "layers.{}.sa_scale.scale",
    "model.layers.{}.pre_feedforward_layernorm.weight": "layers.{}.mlp_norm.scale",
    "model.layers.{}.post_feedforward_layernorm.weight": "layers.{}.mlp_scale.scale",
}


def parts(final_cap: float | None) -> Parts:
    """Gemma's parts with norms after attention and feed-forward too, and logits that stay within ``final_cap``."""
    return replace(PARTS, layer=sandwich_layer, finish_logits=final_cap and SoftCap(final_cap))


def _arch(config: Mapping[str, Any]) -> Arch:
    window = config.get("sliding_window")
    if config.get("sliding_window_size", window) != window:
        raise CheckpointError("config.json has two sizes of the window, sliding_window and sliding_window_size")
    kinds = layer_types(config, ("sliding_attention", "full_attention"))
    return Arch.from_hf(
        config,
        windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
        attn_scale=config["query_pre_attn_scalar"] ** -0.5,
        attn_softcap=config.get("attn_logit_softcapping"),
    )


GEMMA2 = Family(
    name="gemma2",
    arch=_arch,
    hf=WeightMap(HF_DECODER | SANDWICH_NORMS),
    parts=lambda config: parts(config.get("final_logit_softcapping")),
)

_ROWS = {"vocab_size": 256_000, "head_dim": 256, "max_seq_len": 8192}
_2B = _ROWS | {"num_layers": 26, "num_heads": 8, "num_kv_heads": 4, "embed_dim": 2304, "intermediate_dim": 9216}
_9B = _ROWS | {"num_layers": 42, "num_heads": 16, "num_kv_heads": 8, "embed_dim": 3584, "intermediate_dim": 14_336}
_27B = _ROWS | {
    "num_layers": 46,
    "num_heads": 32,
    "num_kv_heads": 16,
    "head_dim": 128,
    "embed_dim": 4608,
    "intermediate_dim": 36_864,
    "query_pre_attn_scalar": 144,
}


def gemma2(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    head_dim: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-6,
    rope_base: float = 10_000,
    hidden_capping_value: float = 50.0,
    final_capping_value: float = 30.0,
    sliding_window_size: int = 4096,
    query_pre_attn_scalar: int | None = None,
) -> TransformerDecoder:
    """A Gemma 2 decoder of any size.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
        hidden_capping_value: attention scores stay within it, by a soft cap; likewise logits within
            ``final_capping_value``.
        sliding_window_size: tokens that every other layer, from the first on, looks back; itself included.
        query_pre_attn_scalar: attention scores are divided by its square root; None: ``head_dim``.
    """
    given = locals()
    scalar = given.pop("query_pre_attn_scalar") or head_dim
    window, final_cap = given.pop("sliding_window_size"), given.pop("final_capping_value")
    softcap = given.pop("hidden_capping_value")
    arch = Arch.with_rope(**SHARED, **given, windows=(window, None), attn_scale=scalar**-0.5, attn_softcap=softcap)
    return build_decoder(arch, parts(final_cap))


def gemma2_2b() -> TransformerDecoder:
    """Gemma 2 2B."""
    return gemma2(**_2B)


def gemma2_9b() -> TransformerDecoder:
    """Gemma 2 9B."""
    return gemma2(**_9B)


def gemma2_27b() -> TransformerDecoder:
    """Gemma 2 27B."""
    return gemma2(**_27B)


lora_gemma2 = with_lora(gemma2)
lora_gemma2_2b = with_lora(gemma2_2b)
lora_gemma2_9b = with_lora(gemma2_9b)
lora_gemma2_27b = with_lora(gemma2_27b)
qlora_gemma2_2b = partial(lora_gemma2_2b, quantize_base=True)
qlora_gemma2_9b = partial(lora_gemma2_9b, quantize_base=True)
qlora_gemma2_27b = partial(lora_gemma2_27b, quantize_base=True)
