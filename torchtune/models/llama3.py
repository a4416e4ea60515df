"""Llama 3 (https://arxiv.org/abs/2407.21783). Rows: ``config.json`` of each checkpoint at
https://huggingface.co/meta-llama.
"""

from functools import partial

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._llama3_tokenizer import Llama3Tokenizer, llama3_tokenizer
from torchtune.modules import TransformerDecoder

__all__ = [
    "Llama3Tokenizer", "llama3", "llama3_8b", "llama3_70b", "llama3_tokenizer", "lora_llama3", "lora_llama3_8b",
    "lora_llama3_70b", "qlora_llama3_8b", "qlora_llama3_70b",
]  # fmt: skip

_SHARED = {"vocab_size": 128_256, "max_seq_len": 8192, "rope_base": 500_000, "norm_eps": 1e-5}
_8B = {"num_layers": 32, "num_heads": 32, "num_kv_heads": 8, "embed_dim": 4096, "intermediate_dim": 14_336}
_70B = {"num_layers": 80, "num_heads": 64, "num_kv_heads": 8, "embed_dim": 8192, "intermediate_dim": 28_672}


def llama3(
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
) -> TransformerDecoder:
    """A Llama 3 decoder of any size.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
        intermediate_dim: feed-forward width; None derives it from ``embed_dim`` as Llama does.
    """
    return build_decoder(Arch.with_rope(**locals()))


def llama3_8b() -> TransformerDecoder:
    """Llama 3 8B."""
    return build_decoder(Arch.with_rope(**_SHARED, **_8B))


def llama3_70b() -> TransformerDecoder:
    """Llama 3 70B."""
    return build_decoder(Arch.with_rope(**_SHARED, **_70B))


lora_llama3 = with_lora(llama3)
lora_llama3_8b = with_lora(llama3_8b)
lora_llama3_70b = with_lora(llama3_70b)
qlora_llama3_8b = partial(lora_llama3_8b, quantize_base=True)
qlora_llama3_70b = partial(lora_llama3_70b, quantize_base=True)
