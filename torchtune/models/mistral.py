"""Mistral 7B, Nemo, Small and Ministral 8B (https://arxiv.org/abs/2310.06825). Rows: ``config.json`` of each checkpoint
at https://huggingface.co/mistralai.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._family import Family
from torchtune.models._hf_config import layer_types
from torchtune.models._mistral_tokenizer import MistralChatTemplate, MistralTokenizer, mistral_tokenizer
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules import TransformerDecoder

__all__ = [
    "MistralChatTemplate", "MistralTokenizer", "lora_ministral_8b", "lora_mistral", "lora_mistral_7b",
    "lora_mistral_7b_v0_1", "lora_mistral_7b_v0_2", "lora_mistral_7b_v0_3", "lora_mistral_classifier",
    "lora_mistral_nemo_12b", "lora_mistral_reward_7b", "lora_mistral_small_3_1_24b", "lora_mistral_small_24b",
    "ministral_8b", "mistral", "mistral_7b", "mistral_7b_v0_1", "mistral_7b_v0_2", "mistral_7b_v0_3",
    "mistral_classifier", "mistral_nemo_12b", "mistral_reward_7b", "mistral_small_3_1_24b", "mistral_small_24b",
    "mistral_tokenizer", "qlora_ministral_8b", "qlora_mistral_7b", "qlora_mistral_7b_v0_1", "qlora_mistral_7b_v0_2",
    "qlora_mistral_7b_v0_3", "qlora_mistral_nemo_12b", "qlora_mistral_reward_7b", "qlora_mistral_small_3_1_24b",
    "qlora_mistral_small_24b",
]  # fmt: skip


def _arch(config: Mapping[str, Any]) -> Arch:
    return Arch.from_hf(config, windows=(config.get("sliding_window"),))


def _arch_by_layer(config: Mapping[str, Any]) -> Arch:
    """Some layers look back at all tokens, some at a window of them."""
    window, kinds = config.get("sliding_window"), ("sliding_attention", "full_attention")
    kinds = layer_types(config, kinds) if config.get("layer_types") else kinds[:1]
    return Arch.from_hf(config, windows=tuple(window if kind == "sliding_attention" else None for kind in kinds))


MISTRAL = Family(name="mistral", arch=_arch, hf=WeightMap(HF_DECODER))
MINISTRAL = Family(name="ministral", arch=_arch_by_layer, hf=WeightMap(HF_DECODER))

# Version 0.1 looks back 4096 tokens only, at which torchtune's form of it does not stop; the later ones have no window.
_7B = {
    "vocab_size": 32_000,
    "num_layers": 32,
    "num_heads": 32,
    "num_kv_heads": 8,
    "embed_dim": 4096,
    "intermediate_dim": 14_336,
    "max_seq_len": 32_768,
    "norm_eps": 1e-5,
}
_7B_V0_1 = _7B | {"windows": (4096,)}
_7B_V0_2 = _7B | {"rope_base": 1_000_000}
_7B_V0_3 = _7B_V0_2 | {"vocab_size": 32_768}
# With the words of Tekken.
_TEKKEN = {"vocab_size": 131_072, "num_heads": 32, "num_kv_heads": 8, "head_dim": 128, "norm_eps": 1e-5}
_NEMO_12B = _TEKKEN | {
    "num_layers": 40,
    "embed_dim": 5120,
    "intermediate_dim": 14_336,
    "max_seq_len": 131_072,
    "rope_base": 1_000_000,
}
_SMALL_24B = _TEKKEN | {
    "num_layers": 40,
    "embed_dim": 5120,
    "intermediate_dim": 32_768,
    "max_seq_len": 32_768,
    "rope_base": 100_000_000,
}
_SMALL_3_1_24B = _SMALL_24B | {"max_seq_len": 131_072, "rope_base": 1_000_000_000}
_MINISTRAL_8B = _TEKKEN | {
    "num_layers": 36,
    "embed_dim": 4096,
    "intermediate_dim": 12_288,
    "max_seq_len": 32_768,
    "windows": (32_768,),
    "rope_base": 100_000_000,
}


def mistral(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-5,
    rope_base: float = 10_000,
) -> TransformerDecoder:
    """A Mistral decoder of any size, without a window.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
    """
    return build_decoder(Arch.with_rope(**locals()))


def mistral_classifier(
    num_classes: int,
    *,
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-5,
    rope_base: float = 10_000,
) -> TransformerDecoder:
    """A Mistral decoder whose output is ``num_classes`` scores per token, [B, S, num_classes]."""
    return build_decoder(Arch.with_rope(**locals()))


def mistral_7b() -> TransformerDecoder:
    """Mistral 7B as torchtune has it: version 0.1 without its window."""
    return build_decoder(Arch.with_rope(**_7B))


def mistral_7b_v0_1() -> TransformerDecoder:
    """Mistral 7B, version 0.1: each token sees the last 4096."""
    return build_decoder(Arch.with_rope(**_7B_V0_1))


def mistral_7b_v0_2() -> TransformerDecoder:
    """Mistral 7B, version 0.2."""
    return build_decoder(Arch.with_rope(**_7B_V0_2))


def mistral_7b_v0_3() -> TransformerDecoder:
    """Mistral 7B, version 0.3."""
    return build_decoder(Arch.with_rope(**_7B_V0_3))


def mistral_nemo_12b() -> TransformerDecoder:
    """Mistral Nemo 12B (2407)."""
    return build_decoder(Arch.with_rope(**_NEMO_12B))


def mistral_small_24b() -> TransformerDecoder:
    """Mistral Small 3 (2501)."""
    return build_decoder(Arch.with_rope(**_SMALL_24B))


def mistral_small_3_1_24b() -> TransformerDecoder:
    """The language model of Mistral Small 3.1 (2503) and 3.2 (2506)."""
    return build_decoder(Arch.with_rope(**_SMALL_3_1_24B))


def ministral_8b() -> TransformerDecoder:
    """Ministral 8B (2410)."""
    return build_decoder(Arch.with_rope(**_MINISTRAL_8B))


def mistral_reward_7b() -> TransformerDecoder:
    """A reward model on Mistral 7B: one score per token."""
    return build_decoder(Arch.with_rope(**_7B, num_classes=1))


lora_mistral = with_lora(mistral)
lora_mistral_7b = with_lora(mistral_7b)
lora_mistral_7b_v0_1 = with_lora(mistral_7b_v0_1)
lora_mistral_7b_v0_2 = with_lora(mistral_7b_v0_2)
lora_mistral_7b_v0_3 = with_lora(mistral_7b_v0_3)
lora_mistral_nemo_12b = with_lora(mistral_nemo_12b)
lora_mistral_small_24b = with_lora(mistral_small_24b)
lora_mistral_small_3_1_24b = with_lora(mistral_small_3_1_24b)
lora_ministral_8b = with_lora(ministral_8b)
lora_mistral_classifier = with_lora(mistral_classifier)
lora_mistral_reward_7b = with_lora(mistral_reward_7b)
qlora_mistral_7b = partial(lora_mistral_7b, quantize_base=True)
qlora_mistral_7b_v0_1 = partial(lora_mistral_7b_v0_1, quantize_base=True)
qlora_mistral_7b_v0_2 = partial(lora_mistral_7b_v0_2, quantize_base=True)
qlora_mistral_7b_v0_3 = partial(lora_mistral_7b_v0_3, quantize_base=True)
qlora_mistral_nemo_12b = partial(lora_mistral_nemo_12b, quantize_base=True)
qlora_mistral_small_24b = partial(lora_mistral_small_24b, quantize_base=True)
qlora_mistral_small_3_1_24b = partial(lora_mistral_small_3_1_24b, quantize_base=True)
qlora_ministral_8b = partial(lora_ministral_8b, quantize_base=True)
qlora_mistral_reward_7b = partial(lora_mistral_reward_7b, quantize_base=True)
