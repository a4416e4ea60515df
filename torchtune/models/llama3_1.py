"""Llama 3.1 (https://arxiv.org/abs/2407.21783). Rows: ``config.json`` of each checkpoint at
https://huggingface.co/meta-llama.
"""

from functools import partial

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._rope import llama3_scaling
from torchtune.modules import TransformerDecoder
from torchtune.modules.position_embeddings import Llama3ScaledRoPE

__all__ = [
    "Llama3ScaledRoPE", "llama3_1", "llama3_1_8b", "llama3_1_70b", "llama3_1_405b", "lora_llama3_1",
    "lora_llama3_1_8b", "lora_llama3_1_70b", "lora_llama3_1_405b", "qlora_llama3_1_8b", "qlora_llama3_1_70b",
    "qlora_llama3_1_405b",
]  # fmt: skip

_SHARED = {
    "vocab_size": 128_256,
    "max_seq_len": 131_072,
    "rope_base": 500_000,
    "scaling": llama3_scaling(8),
    "norm_eps": 1e-5,
    "num_kv_heads": 8,
}
_8B = {"num_layers": 32, "num_heads": 32, "embed_dim": 4096, "intermediate_dim": 14_336}
_70B = {"num_layers": 80, "num_heads": 64, "embed_dim": 8192, "intermediate_dim": 28_672}
_405B = {"num_layers": 126, "num_heads": 128, "embed_dim": 16_384, "intermediate_dim": 53_248}


def llama3_1(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    rope_base: float = 500_000,
    intermediate_dim: int | None = None,
    norm_eps: float = 1e-5,
    scale_factor: float = 8,
) -> TransformerDecoder:
    """A Llama 3.1 decoder of any size.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
        intermediate_dim: feed-forward width; None derives it from ``embed_dim`` as Llama does.
        scale_factor: how many times slower RoPE's slow pairs turn; see :class:`Llama3ScaledRoPE`.
    """
    given = locals()
    return build_decoder(Arch.with_rope(scaling=llama3_scaling(given.pop("scale_factor")), **given))


def llama3_1_8b() -> TransformerDecoder:
    """Llama 3.1 8B."""
    return build_decoder(Arch.with_rope(**_SHARED, **_8B))


def llama3_1_70b() -> TransformerDecoder:
    """Llama 3.1 70B."""
    return build_decoder(Arch.with_rope(**_SHARED, **_70B))


def llama3_1_405b() -> TransformerDecoder:
    """Llama 3.1 405B."""
    return build_decoder(Arch.with_rope(**_SHARED, **_405B))


lora_llama3_1 = with_lora(llama3_1)
lora_llama3_1_8b = with_lora(llama3_1_8b)
lora_llama3_1_70b = with_lora(llama3_1_70b)
lora_llama3_1_405b = with_lora(llama3_1_405b)
qlora_llama3_1_8b = partial(lora_llama3_1_8b, quantize_base=True)
qlora_llama3_1_70b = partial(lora_llama3_1_70b, quantize_base=True)
qlora_llama3_1_405b = partial(lora_llama3_1_405b, quantize_base=True)
