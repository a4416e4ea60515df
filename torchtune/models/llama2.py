"""Llama 2 (https://arxiv.org/abs/2307.09288). Rows: ``config.json`` of each checkpoint at
https://huggingface.co/meta-llama.
"""

from functools import partial

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._llama2_tokenizer import Llama2ChatTemplate, Llama2Tokenizer, llama2_tokenizer
from torchtune.modules import TransformerDecoder

__all__ = [
    "Llama2ChatTemplate", "Llama2Tokenizer", "llama2", "llama2_7b", "llama2_13b", "llama2_70b", "llama2_classifier",
    "llama2_reward_7b", "llama2_tokenizer", "lora_llama2", "lora_llama2_7b", "lora_llama2_13b", "lora_llama2_70b",
    "lora_llama2_classifier", "lora_llama2_reward_7b", "qlora_llama2_7b", "qlora_llama2_13b", "qlora_llama2_70b",
    "qlora_llama2_reward_7b",
]  # fmt: skip

_SHARED = {"vocab_size": 32_000, "max_seq_len": 4096, "norm_eps": 1e-5}
_7B = _SHARED | {"num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "embed_dim": 4096}
_13B = _SHARED | {"num_layers": 40, "num_heads": 40, "num_kv_heads": 40, "embed_dim": 5120, "intermediate_dim": 13_824}
_70B = _SHARED | {"num_layers": 80, "num_heads": 64, "num_kv_heads": 8, "embed_dim": 8192, "intermediate_dim": 28_672}


def llama2(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    intermediate_dim: int | None = None,
    norm_eps: float = 1e-5,
    rope_base: float = 10_000.0,
) -> TransformerDecoder:
    """A Llama 2 decoder of any size.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
        intermediate_dim: feed-forward width; None derives it from ``embed_dim`` as Llama does.
    """
    return build_decoder(Arch.with_rope(**locals()))


def llama2_classifier(
    num_classes: int,
    *,
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    intermediate_dim: int | None = None,
    norm_eps: float = 1e-5,
) -> TransformerDecoder:
    """A Llama 2 decoder whose output is ``num_classes`` scores per token, [B, S, num_classes]."""
    return build_decoder(Arch.with_rope(**locals()))


def llama2_7b() -> TransformerDecoder:
    """Llama 2 7B."""
    return build_decoder(Arch.with_rope(**_7B))


def llama2_13b() -> TransformerDecoder:
    """Llama 2 13B."""
    return build_decoder(Arch.with_rope(**_13B))


def llama2_70b() -> TransformerDecoder:
    """Llama 2 70B."""
    return build_decoder(Arch.with_rope(**_70B))


def llama2_reward_7b() -> TransformerDecoder:
    """A reward model on Llama 2 7B: one score per token."""
    return build_decoder(Arch.with_rope(**_7B, num_classes=1))


lora_llama2 = with_lora(llama2)
lora_llama2_7b = with_lora(llama2_7b)
lora_llama2_13b = with_lora(llama2_13b)
lora_llama2_70b = with_lora(llama2_70b)
lora_llama2_classifier = with_lora(llama2_classifier)
lora_llama2_reward_7b = with_lora(llama2_reward_7b)
qlora_llama2_7b = partial(lora_llama2_7b, quantize_base=True)
qlora_llama2_13b = partial(lora_llama2_13b, quantize_base=True)
qlora_llama2_70b = partial(lora_llama2_70b, quantize_base=True)
qlora_llama2_reward_7b = partial(lora_llama2_reward_7b, quantize_base=True)
