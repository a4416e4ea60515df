"""Gemma 3."""

from family_cases import Case
from torchtune.models.gemma3 import gemma3

SIZES = {
    "vocab_size": 97,
    "num_layers": 7,
    "num_heads": 4,
    "num_kv_heads": 1,
    "head_dim": 32,
    "embed_dim": 64,
    "intermediate_dim": 96,
    "max_seq_len": 64,
    "sliding_window_size": 11,
}
BASE = {"head_dim": 32, "sliding_window": 11, "num_key_value_heads": 1, "num_hidden_layers": 7}
SHORT = {"head_dim": 32, "sliding_window": 11, "layer_types": ["sliding_attention", "full_attention", "full_attention"]}

CASES = {
    "1b": Case(
        "gemma3_text",
        "five windowed layers to one, each kind with positions of its own, norms of queries and keys, tied embeddings",
        BASE | {"query_pre_attn_scalar": 32},
        builder=lambda: gemma3(**SIZES),
    ),
    "27b": Case(
        "gemma3_text",
        "slowed positions of the global layers, scores divided by another number than head_dim",
        BASE
        | {
            "query_pre_attn_scalar": 20,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            },
        },
        builder=lambda: gemma3(**SIZES, rope_scale_factor=8.0, query_pre_attn_scalar=20),
    ),
    "cap": Case(
        "gemma3_text",
        "windows where the config has them, logits far beyond a cap, untied embeddings",
        SHORT | {"final_logit_softcapping": 2.0, "tie_word_embeddings": False},
        std=1.0,
    ),
}
