"""Mixtral (https://arxiv.org/abs/2401.04088): Mistral with eight experts in place of the feed-forward. Rows:
``config.json`` of each checkpoint at https://huggingface.co/mistralai.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, Parts, build_decoder
from torchtune.models._family import Family
from torchtune.models._moe import routing_from_hf, sparse_mlp
from torchtune.models._rope import Rope
from torchtune.models._tensor_forms import PerExpert
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules import TransformerDecoder

__all__ = [
    "lora_mixtral", "lora_mixtral_8x7b", "lora_mixtral_8x22b", "mixtral", "mixtral_8x7b", "mixtral_8x22b",
    "qlora_mixtral_8x7b", "qlora_mixtral_8x22b",
]  # fmt: skip


def _arch(config: Mapping[str, Any]) -> Arch:
    return Arch.from_hf(
        config,
        ropes=(Rope.from_hf(config, interleaved=False),),
        windows=(config.get("sliding_window"),),
        **routing_from_hf(config),
    )


PARTS = Parts(mlp=sparse_mlp)
NAMES = WeightMap(
    HF_DECODER
    | {
        "model.layers.{}.block_sparse_moe.gate": "layers.{}.mlp.router.gate",
        "model.layers.{}.block_sparse_moe.experts.{}.w1.weight": PerExpert("layers.{}.mlp.experts.gate_proj"),
        "model.layers.{}.block_sparse_moe.experts.{}.w2.weight": PerExpert("layers.{}.mlp.experts.down_proj"),
        "model.layers.{}.block_sparse_moe.experts.{}.w3.weight": PerExpert("layers.{}.mlp.experts.up_proj"),
    },
    rotary=(),
)
MIXTRAL = Family(name="mixtral", arch=_arch, hf=NAMES, parts=lambda config: PARTS)

_8X7B = {
    "vocab_size": 32_000,
    "num_layers": 32,
    "num_heads": 32,
    "num_kv_heads": 8,
    "embed_dim": 4096,
    "intermediate_dim": 14_336,
    "max_seq_len": 32_768,
}
# The instruct model has a vocabulary of 32,768.
_8X22B = {
    "vocab_size": 32_000,
    "num_layers": 56,
    "num_heads": 48,
    "num_kv_heads": 8,
    "embed_dim": 6144,
    "intermediate_dim": 16_384,
    "max_seq_len": 65_536,
}


def mixtral(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-5,
    rope_base: float = 1_000_000,
    num_experts: int = 8,
    experts_per_token: int = 2,
) -> TransformerDecoder:
    """A Mixtral decoder of any size.

    Args:
        intermediate_dim: of each expert.
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
    """
    return build_decoder(Arch.with_rope(interleaved=False, **locals()), PARTS)


def mixtral_8x7b() -> TransformerDecoder:
    """Mixtral 8x7B."""
    return mixtral(**_8X7B)


def mixtral_8x22b() -> TransformerDecoder:
    """Mixtral 8x22B."""
    return mixtral(**_8X22B)


lora_mixtral = with_lora(mixtral)
lora_mixtral_8x7b = with_lora(mixtral_8x7b)
lora_mixtral_8x22b = with_lora(mixtral_8x22b)
qlora_mixtral_8x7b = partial(lora_mixtral_8x7b, quantize_base=True)
qlora_mixtral_8x22b = partial(lora_mixtral_8x22b, quantize_base=True)
