"""Qwen 3, dense (https://arxiv.org/abs/2505.09388): heads are normalised, projections have no bias. Rows:
``config.json`` of each checkpoint at https://huggingface.co/Qwen.
"""

from collections.abc import Mapping
from typing import Any

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._family import Family
from torchtune.models._qwen_tokenizers import QWEN3_SPECIAL_TOKENS, Qwen3Tokenizer, qwen3_tokenizer
from torchtune.models._rope import Rope
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.models.qwen2 import layer_windows
from torchtune.modules import TransformerDecoder

__all__ = [
    "QWEN3_SPECIAL_TOKENS", "Qwen3Tokenizer", "lora_qwen3_0_6b_base", "lora_qwen3_0_6b_instruct",
    "lora_qwen3_1_7b_base", "lora_qwen3_1_7b_instruct", "lora_qwen3_4b_base", "lora_qwen3_4b_instruct",
    "lora_qwen3_8b_base", "lora_qwen3_8b_instruct", "lora_qwen3_14b_base", "lora_qwen3_14b_instruct",
    "lora_qwen3_32b", "qwen3_0_6b_base", "qwen3_0_6b_instruct", "qwen3_1_7b_base", "qwen3_1_7b_instruct",
    "qwen3_4b_base", "qwen3_4b_instruct", "qwen3_8b_base", "qwen3_8b_instruct", "qwen3_14b_base",
    "qwen3_14b_instruct", "qwen3_32b", "qwen3_tokenizer",
]  # fmt: skip


def _arch(config: Mapping[str, Any]) -> Arch:
    bias = config.get("attention_bias", False)
    return Arch.from_hf(
        config,
        ropes=(Rope.from_hf(config, interleaved=False),),
        windows=layer_windows(config),
        head_dim=config.get("head_dim") or 128,
        qkv_bias=bias,
        output_proj_bias=bias,
        qk_norm=True,
    )


_NORMS = {
    "model.layers.{}.self_attn.q_norm.weight": "layers.{}.attn.q_norm.scale",
    "model.layers.{}.self_attn.k_norm.weight": "layers.{}.attn.k_norm.scale",
}
QWEN3 = Family(name="qwen3", arch=_arch, hf=WeightMap(HF_DECODER | _NORMS, rotary=()))

_SHARED = {
    "vocab_size": 151_936,
    "num_kv_heads": 8,
    "head_dim": 128,
    "norm_eps": 1e-6,
    "rope_base": 1_000_000,
    "interleaved": False,
    "qk_norm": True,
}
_BASE = _SHARED | {"max_seq_len": 32_768}
_INSTRUCT = _SHARED | {"max_seq_len": 40_960}
_0_6B = {"num_layers": 28, "num_heads": 16, "embed_dim": 1024, "intermediate_dim": 3072, "tied": True}
_1_7B = {"num_layers": 28, "num_heads": 16, "embed_dim": 2048, "intermediate_dim": 6144, "tied": True}
_4B = {"num_layers": 36, "num_heads": 32, "embed_dim": 2560, "intermediate_dim": 9728, "tied": True}
_8B = {"num_layers": 36, "num_heads": 32, "embed_dim": 4096, "intermediate_dim": 12_288}
_14B = {"num_layers": 40, "num_heads": 40, "embed_dim": 5120, "intermediate_dim": 17_408}
_32B = {"num_layers": 64, "num_heads": 64, "embed_dim": 5120, "intermediate_dim": 25_600}


def qwen3_0_6b_base() -> TransformerDecoder:
    """Qwen 3 0.6B Base."""
    return build_decoder(Arch.with_rope(**_BASE, **_0_6B))


def qwen3_0_6b_instruct() -> TransformerDecoder:
    """Qwen 3 0.6B."""
    return build_decoder(Arch.with_rope(**_INSTRUCT, **_0_6B))


def qwen3_1_7b_base() -> TransformerDecoder:
    """Qwen 3 1.7B Base."""
    return build_decoder(Arch.with_rope(**_BASE, **_1_7B))


def qwen3_1_7b_instruct() -> TransformerDecoder:
    """Qwen 3 1.7B."""
    return build_decoder(Arch.with_rope(**_INSTRUCT, **_1_7B))


def qwen3_4b_base() -> TransformerDecoder:
    """Qwen 3 4B Base."""
    return build_decoder(Arch.with_rope(**_BASE, **_4B))


def qwen3_4b_instruct() -> TransformerDecoder:
    """Qwen 3 4B."""
    return build_decoder(Arch.with_rope(**_INSTRUCT, **_4B))


def qwen3_8b_base() -> TransformerDecoder:
    """Qwen 3 8B Base."""
    return build_decoder(Arch.with_rope(**_BASE, **_8B))


def qwen3_8b_instruct() -> TransformerDecoder:
    """Qwen 3 8B."""
    return build_decoder(Arch.with_rope(**_INSTRUCT, **_8B))


def qwen3_14b_base() -> TransformerDecoder:
    """Qwen 3 14B Base."""
    return build_decoder(Arch.with_rope(**_BASE, **_14B))


def qwen3_14b_instruct() -> TransformerDecoder:
    """Qwen 3 14B."""
    return build_decoder(Arch.with_rope(**_INSTRUCT, **_14B))


def qwen3_32b() -> TransformerDecoder:
    """Qwen 3 32B."""
    return build_decoder(Arch.with_rope(**_INSTRUCT, **_32B))


lora_qwen3_0_6b_base = with_lora(qwen3_0_6b_base)
lora_qwen3_0_6b_instruct = with_lora(qwen3_0_6b_instruct)
lora_qwen3_1_7b_base = with_lora(qwen3_1_7b_base)
lora_qwen3_1_7b_instruct = with_lora(qwen3_1_7b_instruct)
lora_qwen3_4b_base = with_lora(qwen3_4b_base)
lora_qwen3_4b_instruct = with_lora(qwen3_4b_instruct)
lora_qwen3_8b_base = with_lora(qwen3_8b_base)
lora_qwen3_8b_instruct = with_lora(qwen3_8b_instruct)
lora_qwen3_14b_base = with_lora(qwen3_14b_base)
lora_qwen3_14b_instruct = with_lora(qwen3_14b_instruct)
lora_qwen3_32b = with_lora(qwen3_32b)
