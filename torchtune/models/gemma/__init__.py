"""Gemma (https://arxiv.org/abs/2403.08295). Rows: ``config.json`` of each checkpoint at https://huggingface.co/google."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, Parts, build_decoder
from torchtune.models._family import Family
from torchtune.models._gemma_tokenizer import GemmaChatTemplate, GemmaTokenizer, gemma_tokenizer
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.models.gemma.gemma_norm_embedding import GemmaNormEmbeddings
from torchtune.models.gemma.rms_norm import GemmaRMSNorm
from torchtune.modules import TransformerDecoder

__all__ = [
    "GemmaChatTemplate", "GemmaTokenizer", "gemma", "gemma_2b", "gemma_7b", "gemma_tokenizer", "lora_gemma",
    "lora_gemma_2b", "lora_gemma_7b", "qlora_gemma_2b", "qlora_gemma_7b",
]  # fmt: skip

PARTS = Parts(norm=GemmaRMSNorm, embedding=lambda a: GemmaNormEmbeddings(a.vocab_size, a.embed_dim))
SHARED = {"activation": "gelu_pytorch_tanh", "tied": True}


def _arch(config: Mapping[str, Any]) -> Arch:
    arch = Arch.from_hf(config)
    # The first files say "gelu" and mean its tanh form: https://github.com/huggingface/transformers/pull/29402
    return replace(arch, activation="gelu_pytorch_tanh") if arch.activation == "gelu" else arch


GEMMA = Family(name="gemma", arch=_arch, hf=WeightMap(HF_DECODER), parts=lambda config: PARTS)

_ROWS = {"vocab_size": 256_000, "head_dim": 256, "max_seq_len": 8192}
_2B = _ROWS | {"num_layers": 18, "num_heads": 8, "num_kv_heads": 1, "embed_dim": 2048, "intermediate_dim": 16_384}
_7B = _ROWS | {"num_layers": 28, "num_heads": 16, "num_kv_heads": 16, "embed_dim": 3072, "intermediate_dim": 24_576}


def gemma(
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
) -> TransformerDecoder:
    """A Gemma decoder of any size.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
    """
    return build_decoder(Arch.with_rope(**SHARED, **locals()), PARTS)


def gemma_2b() -> TransformerDecoder:
    """Gemma 2B."""
    return gemma(**_2B)


def gemma_7b() -> TransformerDecoder:
    """Gemma 7B."""
    return gemma(**_7B)


lora_gemma = with_lora(gemma)
lora_gemma_2b = with_lora(gemma_2b)
lora_gemma_7b = with_lora(gemma_7b)
qlora_gemma_2b = partial(lora_gemma_2b, quantize_base=True)
qlora_gemma_7b = partial(lora_gemma_7b, quantize_base=True)
