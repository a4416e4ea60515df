"""Gemma 2."""

from family_cases import Case
from torchtune.models.gemma2 import gemma2

SIZES = {
    "vocab_size": 97,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "embed_dim": 64,
    "intermediate_dim": 96,
    "max_seq_len": 64,
}
BASE = {"head_dim": 32, "sliding_window": 11}

CASES = {
    "27b": Case(
        "gemma2",
        "soft caps, norms before and after, a window shorter than the sequence in every other layer, scores divided "
        "by another number than head_dim",
        BASE | {"query_pre_attn_scalar": 20},
        builder=lambda: gemma2(**SIZES, sliding_window_size=11, query_pre_attn_scalar=20),
    ),
    "caps": Case(
        "gemma2",
        "scores and logits far beyond the caps",
        BASE | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 32},
        std=1.0,
    ),
    "no_caps": Case(
        "gemma2",
        "without caps, windows where the config has them, untied embeddings",
        BASE
        | {
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "query_pre_attn_scalar": 32,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "tie_word_embeddings": False,
        },
    ),
}
