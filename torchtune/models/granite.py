"""Granite 3 (https://github.com/ibm-granite/granite-3.0-language-models/blob/main/paper.pdf), the dense models: a Llama
with four constant factors. Rows: ``config.json`` of each checkpoint at https://huggingface.co/ibm-granite.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, Parts, build_decoder
from torchtune.models._family import Family
from torchtune.models._hf_tokenizer import hf_tokenizer
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules import RMSNorm, TransformerDecoder, TransformerSelfAttentionLayer

__all__ = [
    "granite", "granite3_2b", "granite3_8b", "granite_tokenizer", "lora_granite", "lora_granite3_2b",
    "lora_granite3_8b", "qlora_granite3_2b", "qlora_granite3_8b",
]  # fmt: skip


class MultipliedEmbedding(nn.Embedding):
    """Embeddings times a constant; the weight, which a tied output projection reads too, is without it."""

    def __init__(self, vocab_size: int, embed_dim: int, multiplier: float) -> None:
        super().__init__(vocab_size, embed_dim)
        self.multiplier = multiplier

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * self.multiplier


class Multiply(nn.Module):
    """x times a constant."""

    def __init__(self, multiplier: float) -> None:
        super().__init__()
        self.multiplier = multiplier

    def forward(self, x: Tensor) -> Tensor:
        return x * self.multiplier


class DividedNorm(RMSNorm):
    """A norm whose result is divided by a constant.

    As the final norm it divides the logits: what follows only multiplies, so losses need not know of it.
    """

    def __init__(self, dim: int, eps: float, *, divisor: float) -> None:
        super().__init__(dim, eps)
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.divisor


def _parts(embedding_multiplier: float, residual_multiplier: float, logits_scaling: float) -> Parts:
    def embedding(a: Arch) -> MultipliedEmbedding:
        return MultipliedEmbedding(a.vocab_size, a.embed_dim, embedding_multiplier)

    def layer(a: Arch, attn: nn.Module, mlp: nn.Module, parts: Parts) -> TransformerSelfAttentionLayer:
        norm, multiply = partial(parts.norm, a.embed_dim, a.norm_eps), partial(Multiply, residual_multiplier)
        return TransformerSelfAttentionLayer(
            attn, mlp, sa_norm=norm(), sa_scale=multiply(), mlp_norm=norm(), mlp_scale=multiply()
        )

    return Parts(embedding=embedding, layer=layer, final_norm=partial(DividedNorm, divisor=logits_scaling))


def _arch(config: Mapping[str, Any]) -> Arch:
    scale = config.get("attention_multiplier", 1.0)
    return Arch.from_hf(config, interleaved=False, biases=("attention_bias", "mlp_bias"), attn_scale=scale)


def _parts_of(config: Mapping[str, Any]) -> Parts:
    return _parts(*(config.get(key, 1.0) for key in ("embedding_multiplier", "residual_multiplier", "logits_scaling")))


GRANITE = Family(name="granite", arch=_arch, hf=WeightMap(HF_DECODER, rotary=()), parts=_parts_of)

_SHARED = {
    "num_layers": 40,
    "num_heads": 32,
    "num_kv_heads": 8,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
}
_2B = {"embed_dim": 2048, "intermediate_dim": 8192, "attention_multiplier": 1 / 64, "logits_scaling": 8.0}
_8B = {"embed_dim": 4096, "intermediate_dim": 12_800, "attention_multiplier": 1 / 128, "logits_scaling": 16.0}


def granite(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    embedding_multiplier: float,
    residual_multiplier: float,
    attention_multiplier: float,
    logits_scaling: float,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-5,
    rope_base: float = 10_000,
    tie_word_embeddings: bool = True,
) -> TransformerDecoder:
    """A Granite decoder of any size.

    Args:
        max_seq_len: tokens.
        embedding_multiplier: multiplies what the token embedding gives; likewise ``residual_multiplier`` what
            attention and feed-forward give before it is added, and ``attention_multiplier`` the attention scores.
        logits_scaling: the logits are divided by it.
        attn_dropout: share of attention weights dropped in training.
        tie_word_embeddings: the output projection shares the token embedding's weight.
    """
    given = locals()
    factors = [given.pop(key) for key in ("embedding_multiplier", "residual_multiplier", "logits_scaling")]
    scale, tied = given.pop("attention_multiplier"), given.pop("tie_word_embeddings")
    return build_decoder(Arch.with_rope(interleaved=False, attn_scale=scale, tied=tied, **given), _parts(*factors))


def granite3_2b(
    vocab_size: int = 49_159, max_seq_len: int = 131_072, rope_base: float = 10_000_000, attn_dropout: float = 0.0
) -> TransformerDecoder:
    """Granite 3.3 2B, or with other numbers an earlier one.

    Args:
        vocab_size: 49,152 or 49,155 before 3.3.
        max_seq_len: tokens; 4096 in 3.0.
        rope_base: 10,000 in 3.0; 5,000,000 in 3.1 and 3.2.
        attn_dropout: share of attention weights dropped in training; 0.1 in 3.0 and 3.1.
    """
    return granite(**locals(), **_SHARED, **_2B)


def granite3_8b(
    vocab_size: int = 49_159, max_seq_len: int = 131_072, rope_base: float = 10_000_000, attn_dropout: float = 0.0
) -> TransformerDecoder:
    """Granite 3.3 8B, or with other numbers an earlier one: see :func:`granite3_2b`; only 3.0 has another
    ``rope_base``, 10,000.
    """
    return granite(**locals(), **_SHARED, **_8B)


granite_tokenizer = hf_tokenizer
lora_granite = with_lora(granite)
lora_granite3_2b = with_lora(granite3_2b)
lora_granite3_8b = with_lora(granite3_8b)
qlora_granite3_2b = partial(lora_granite3_2b, quantize_base=True)
qlora_granite3_8b = partial(lora_granite3_8b, quantize_base=True)
