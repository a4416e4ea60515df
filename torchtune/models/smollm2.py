"""SmolLM 2 (https://arxiv.org/abs/2502.02737), which is a Llama in all but size. Rows: ``config.json`` of each
checkpoint at https://huggingface.co/HuggingFaceTB.
"""

from functools import partial

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._hf_tokenizer import hf_tokenizer
from torchtune.models._rope import llama3_scaling
from torchtune.modules import TransformerDecoder

__all__ = [
    "lora_smollm2", "lora_smollm2_1_7b", "lora_smollm2_135m", "lora_smollm2_360m", "qlora_smollm2_1_7b",
    "qlora_smollm2_135m", "qlora_smollm2_360m", "smollm2", "smollm2_1_7b", "smollm2_135m", "smollm2_360m",
    "smollm2_tokenizer",
]  # fmt: skip

_135M = {"num_layers": 30, "num_heads": 9, "num_kv_heads": 3, "embed_dim": 576, "intermediate_dim": 1536}
_360M = {"num_layers": 32, "num_heads": 15, "num_kv_heads": 5, "embed_dim": 960, "intermediate_dim": 2560}
_1_7B = {
    "num_layers": 24,
    "num_heads": 32,
    "num_kv_heads": 32,
    "embed_dim": 2048,
    "intermediate_dim": 8192,
    "rope_base": 130_000,
}


def smollm2(
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int = 8192,
    vocab_size: int = 49_152,
    attn_dropout: float = 0.0,
    rope_base: float = 100_000,
    norm_eps: float = 1e-5,
    scale_factor: float = 1,
    tie_word_embeddings: bool = True,
) -> TransformerDecoder:
    """A SmolLM 2 decoder of any size.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
        scale_factor: how many times slower RoPE's slow pairs turn, as in Llama 3.2; 1 leaves them, as the released
            models do.
        tie_word_embeddings: the output projection shares the token embedding's weight.
    """
    given = locals()
    factor, tied = given.pop("scale_factor"), given.pop("tie_word_embeddings")
    return build_decoder(Arch.with_rope(scaling=None if factor == 1 else llama3_scaling(factor), tied=tied, **given))


def smollm2_135m() -> TransformerDecoder:
    """SmolLM 2 135M."""
    return smollm2(**_135M)


def smollm2_360m() -> TransformerDecoder:
    """SmolLM 2 360M."""
    return smollm2(**_360M)


def smollm2_1_7b() -> TransformerDecoder:
    """SmolLM 2 1.7B."""
    return smollm2(**_1_7B)


smollm2_tokenizer = hf_tokenizer
lora_smollm2 = with_lora(smollm2)
lora_smollm2_135m = with_lora(smollm2_135m)
lora_smollm2_360m = with_lora(smollm2_360m)
lora_smollm2_1_7b = with_lora(smollm2_1_7b)
qlora_smollm2_135m = partial(lora_smollm2_135m, quantize_base=True)
qlora_smollm2_360m = partial(lora_smollm2_360m, quantize_base=True)
qlora_smollm2_1_7b = partial(lora_smollm2_1_7b, quantize_base=True)
