"""Qwen 2.5 (https://arxiv.org/abs/2412.15115), which is Qwen 2 in other sizes. Rows: ``config.json`` of each checkpoint
at https://huggingface.co/Qwen.
"""

from torchtune.models._adapters import with_lora
from torchtune.models._qwen_tokenizers import QWEN2_5_SPECIAL_TOKENS, Qwen2_5Tokenizer, qwen2_5_tokenizer
from torchtune.models.qwen2 import qwen2
from torchtune.modules import TransformerDecoder

__all__ = [
    "QWEN2_5_SPECIAL_TOKENS", "Qwen2_5Tokenizer", "lora_qwen2_5_0_5b", "lora_qwen2_5_1_5b_base",
    "lora_qwen2_5_1_5b_instruct", "lora_qwen2_5_3b", "lora_qwen2_5_7b_base", "lora_qwen2_5_7b_instruct",
    "lora_qwen2_5_14b_base", "lora_qwen2_5_14b_instruct", "lora_qwen2_5_32b_base", "lora_qwen2_5_32b_instruct",
    "lora_qwen2_5_72b_base", "lora_qwen2_5_72b_instruct", "qwen2_5_0_5b", "qwen2_5_1_5b_base",
    "qwen2_5_1_5b_instruct", "qwen2_5_3b", "qwen2_5_7b_base", "qwen2_5_7b_instruct", "qwen2_5_14b_base",
    "qwen2_5_14b_instruct", "qwen2_5_32b_base", "qwen2_5_32b_instruct", "qwen2_5_72b_base", "qwen2_5_72b_instruct",
    "qwen2_5_tokenizer",
]  # fmt: skip

_INSTRUCT = {"max_seq_len": 32_768, "norm_eps": 1e-6}  # and the bases of 0.5B and 3B
_BASE = {"max_seq_len": 131_072, "norm_eps": 1e-6}
_LARGE_BASE = {"max_seq_len": 131_072, "norm_eps": 1e-5}
_SMALL = {"vocab_size": 151_936, "tie_word_embeddings": True}
_0_5B = _SMALL | {"num_layers": 24, "num_heads": 14, "num_kv_heads": 2, "embed_dim": 896, "intermediate_dim": 4864}
_1_5B = _SMALL | {"num_layers": 28, "num_heads": 12, "num_kv_heads": 2, "embed_dim": 1536, "intermediate_dim": 8960}
_3B = _SMALL | {"num_layers": 36, "num_heads": 16, "num_kv_heads": 2, "embed_dim": 2048, "intermediate_dim": 11_008}
_LARGE = {"vocab_size": 152_064}
_7B = _LARGE | {"num_layers": 28, "num_heads": 28, "num_kv_heads": 4, "embed_dim": 3584, "intermediate_dim": 18_944}
_14B = _LARGE | {"num_layers": 48, "num_heads": 40, "num_kv_heads": 8, "embed_dim": 5120, "intermediate_dim": 13_824}
_32B = _LARGE | {"num_layers": 64, "num_heads": 40, "num_kv_heads": 8, "embed_dim": 5120, "intermediate_dim": 27_648}
_72B = _LARGE | {"num_layers": 80, "num_heads": 64, "num_kv_heads": 8, "embed_dim": 8192, "intermediate_dim": 29_568}


def qwen2_5_0_5b() -> TransformerDecoder:
    """Qwen 2.5 0.5B, and its instruct model."""
    return qwen2(**_INSTRUCT, **_0_5B)


def qwen2_5_1_5b_base() -> TransformerDecoder:
    """Qwen 2.5 1.5B."""
    return qwen2(**_BASE, **_1_5B)


def qwen2_5_1_5b_instruct() -> TransformerDecoder:
    """Qwen 2.5 1.5B Instruct."""
    return qwen2(**_INSTRUCT, **_1_5B)


def qwen2_5_3b() -> TransformerDecoder:
    """Qwen 2.5 3B, and its instruct model."""
    return qwen2(**_INSTRUCT, **_3B)


def qwen2_5_7b_base() -> TransformerDecoder:
    """Qwen 2.5 7B."""
    return qwen2(**_BASE, **_7B)


def qwen2_5_7b_instruct() -> TransformerDecoder:
    """Qwen 2.5 7B Instruct."""
    return qwen2(**_INSTRUCT, **_7B)


def qwen2_5_14b_base() -> TransformerDecoder:
    """Qwen 2.5 14B."""
    return qwen2(**_LARGE_BASE, **_14B)


def qwen2_5_14b_instruct() -> TransformerDecoder:
    """Qwen 2.5 14B Instruct."""
    return qwen2(**_INSTRUCT, **_14B)


def qwen2_5_32b_base() -> TransformerDecoder:
    """Qwen 2.5 32B."""
    return qwen2(**_LARGE_BASE, **_32B)


def qwen2_5_32b_instruct() -> TransformerDecoder:
    """Qwen 2.5 32B Instruct."""
    return qwen2(**_INSTRUCT, **_32B)


def qwen2_5_72b_base() -> TransformerDecoder:
    """Qwen 2.5 72B."""
    return qwen2(**_LARGE_BASE, **_72B)


def qwen2_5_72b_instruct() -> TransformerDecoder:
    """Qwen 2.5 72B Instruct."""
    return qwen2(**_INSTRUCT, **_72B)


lora_qwen2_5_0_5b = with_lora(qwen2_5_0_5b)
lora_qwen2_5_1_5b_base = with_lora(qwen2_5_1_5b_base)
lora_qwen2_5_1_5b_instruct = with_lora(qwen2_5_1_5b_instruct)
lora_qwen2_5_3b = with_lora(qwen2_5_3b)
lora_qwen2_5_7b_base = with_lora(qwen2_5_7b_base)
lora_qwen2_5_7b_instruct = with_lora(qwen2_5_7b_instruct)
lora_qwen2_5_14b_base = with_lora(qwen2_5_14b_base)
lora_qwen2_5_14b_instruct = with_lora(qwen2_5_14b_instruct)
lora_qwen2_5_32b_base = with_lora(qwen2_5_32b_base)
lora_qwen2_5_32b_instruct = with_lora(qwen2_5_32b_instruct)
lora_qwen2_5_72b_base = with_lora(qwen2_5_72b_base)
lora_qwen2_5_72b_instruct = with_lora(qwen2_5_72b_instruct)
