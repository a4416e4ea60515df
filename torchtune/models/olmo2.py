"""OLMo 2 (https://arxiv.org/abs/2501.00656). Rows: ``config.json`` of each checkpoint at
https://huggingface.co/allenai.
"""

from functools import partial

from torch import Tensor, nn

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, Parts, build_decoder, grouped_query_attention
from torchtune.models._family import Family
from torchtune.models._hf_tokenizer import hf_tokenizer
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules import MultiHeadAttention, RMSNorm, TransformerDecoder, TransformerSelfAttentionLayer

__all__ = [
    "lora_olmo2", "lora_olmo2_1b", "lora_olmo2_7b", "lora_olmo2_13b", "lora_olmo2_32b", "olmo2", "olmo2_1b",
    "olmo2_7b", "olmo2_13b", "olmo2_32b", "olmo2_tokenizer", "qlora_olmo2_1b", "qlora_olmo2_7b", "qlora_olmo2_13b",
    "qlora_olmo2_32b",
]  # fmt: skip


class AllHeadsNorm(RMSNorm):
    """Root-mean-square norm over the channels of all heads at once, [B, S, N, H] -> [B, S, N, H]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(-2)).view_as(x)


def _attention(a: Arch, layer: int, rope: nn.Module | None, parts: Parts) -> MultiHeadAttention:
    attn = grouped_query_attention(a, layer, rope, parts)
    attn.q_norm = AllHeadsNorm(a.num_heads * a.channels, a.norm_eps)
    attn.k_norm = AllHeadsNorm(a.num_kv_heads * a.channels, a.norm_eps)
    return attn


def _post_norm_layer(a: Arch, attn: nn.Module, mlp: nn.Module, parts: Parts) -> TransformerSelfAttentionLayer:
    """Norms after attention and after the feed-forward, none before."""
    norm = partial(parts.norm, a.embed_dim, a.norm_eps)
    return TransformerSelfAttentionLayer(attn, mlp, sa_scale=norm(), mlp_scale=norm())


PARTS = Parts(attention=_attention, layer=_post_norm_layer)
NAMES = WeightMap(
    HF_DECODER
    | {
        "model.layers.{}.self_attn.q_norm.weight": "layers.{}.attn.q_norm.scale",
        "model.layers.{}.self_attn.k_norm.weight": "layers.{}.attn.k_norm.scale",
        "model.layers.{}.post_attention_layernorm.weight": "layers.{}.sa_scale.scale",
        "model.layers.{}.post_feedforward_layernorm.weight": "layers.{}.mlp_scale.scale",
    },
    rotary=(),
)
_arch = partial(Arch.from_hf, interleaved=False, biases=("attention_bias",))
OLMO2 = Family(name="olmo2", arch=_arch, hf=NAMES, parts=lambda config: PARTS)

_SHARED = {"vocab_size": 100_352, "max_seq_len": 4096}
_1B = {"num_layers": 16, "num_heads": 16, "num_kv_heads": 16, "embed_dim": 2048, "intermediate_dim": 8192}
_7B = {"num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "embed_dim": 4096, "intermediate_dim": 11_008}
_13B = {"num_layers": 40, "num_heads": 40, "num_kv_heads": 40, "embed_dim": 5120, "intermediate_dim": 13_824}
_32B = {"num_layers": 64, "num_heads": 40, "num_kv_heads": 8, "embed_dim": 5120, "intermediate_dim": 27_648}


def olmo2(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-6,
    rope_base: float = 500_000,
) -> TransformerDecoder:
    """An OLMo 2 decoder of any size.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
    """
    return build_decoder(Arch.with_rope(interleaved=False, **locals()), PARTS)


def olmo2_1b() -> TransformerDecoder:
    """OLMo 2 1B."""
    return olmo2(**_SHARED, **_1B)


def olmo2_7b() -> TransformerDecoder:
    """OLMo 2 7B."""
    return olmo2(**_SHARED, **_7B)


def olmo2_13b() -> TransformerDecoder:
    """OLMo 2 13B."""
    return olmo2(**_SHARED, **_13B)


def olmo2_32b() -> TransformerDecoder:
    """OLMo 2 32B."""
    return olmo2(**_SHARED, **_32B)


olmo2_tokenizer = hf_tokenizer
lora_olmo2 = with_lora(olmo2)
lora_olmo2_1b = with_lora(olmo2_1b)
lora_olmo2_7b = with_lora(olmo2_7b)
lora_olmo2_13b = with_lora(olmo2_13b)
lora_olmo2_32b = with_lora(olmo2_32b)
qlora_olmo2_1b = partial(lora_olmo2_1b, quantize_base=True)
qlora_olmo2_7b = partial(lora_olmo2_7b, quantize_base=True)
qlora_olmo2_13b = partial(lora_olmo2_13b, quantize_base=True)
qlora_olmo2_32b = partial(lora_olmo2_32b, quantize_base=True)
