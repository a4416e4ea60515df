"""Llama 3.2, text models. Rows: ``config.json`` beside each checkpoint at https://huggingface.co/meta-llama."""

from functools import partial

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._rope import llama3_scaling
from torchtune.modules import TransformerDecoder

__all__ = [
    "llama3_2", "llama3_2_1b", "llama3_2_3b", "lora_llama3_2", "lora_llama3_2_1b", "lora_llama3_2_3b",
    "qlora_llama3_2_1b", "qlora_llama3_2_3b",
]  # fmt: skip

_SHARED = {
    "vocab_size": 128_256,
    "max_seq_len": 131_072,
    "rope_base": 500_000,
    "scaling": llama3_scaling(32),
    "norm_eps": 1e-5,
    "num_kv_heads": 8,
    "intermediate_dim": 8192,
}
_1B = {"num_layers": 16, "num_heads": 32, "embed_dim": 2048}
_3B = {"num_layers": 28, "num_heads": 24, "embed_dim": 3072}


def llama3_2(
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
    scale_factor: float = 32,
    tie_word_embeddings: bool = True,
) -> TransformerDecoder:
    """A Llama 3.2 decoder of any size.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
        intermediate_dim: feed-forward width; None derives it from ``embed_dim`` as Llama does.
        scale_factor: how many times slower RoPE's slow pairs turn; see ``Llama3ScaledRoPE``.
        tie_word_embeddings: the output projection shares the token embedding's weight.
    """
    given = locals()
    scaling, tied = llama3_scaling(given.pop("scale_factor")), given.pop("tie_word_embeddings")
    return build_decoder(Arch.with_rope(scaling=scaling, tied=tied, **given))


def llama3_2_1b(tie_word_embeddings: bool = True) -> TransformerDecoder:
    """Llama 3.2 1B."""
    return build_decoder(Arch.with_rope(**_SHARED, **_1B, tied=tie_word_embeddings))


def llama3_2_3b(tie_word_embeddings: bool = True) -> TransformerDecoder:
    """Llama 3.2 3B."""
    return build_decoder(Arch.with_rope(**_SHARED, **_3B, tied=tie_word_embeddings))


lora_llama3_2 = with_lora(llama3_2)
lora_llama3_2_1b = with_lora(llama3_2_1b)
lora_llama3_2_3b = with_lora(llama3_2_3b)
qlora_llama3_2_1b = partial(lora_llama3_2_1b, quantize_base=True)
qlora_llama3_2_3b = partial(lora_llama3_2_3b, quantize_base=True)
