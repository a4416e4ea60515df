"""Qwen 3, dense."""

from family_cases import Case
from torchtune.models.qwen2 import qwen2

SIZES = {"vocab_size": 97, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 96}
NO_BIASES = {"q_proj_bias": False, "k_proj_bias": False, "v_proj_bias": False}
THETA = {"rope_type": "default", "rope_theta": 1e6}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 16}

CASES = {
    "8b": Case(
        "qwen3",
        "normalised heads, head_dim that is not dim / heads",
        {"rope_parameters": THETA, "rms_norm_eps": 1e-6, "head_dim": 32},
        builder=lambda: qwen2(
            **SIZES, **NO_BIASES, q_norm=True, k_norm=True, head_dim=32, max_seq_len=64, norm_eps=1e-6
        ),
    ),
    "0.6b": Case(
        "qwen3",
        "tied embeddings, heads of 128 channels, which the config need not say",
        {"tie_word_embeddings": True, "head_dim": None, "num_key_value_heads": 4},
    ),
    "biases": Case("qwen3", "biases on all four projections", {"attention_bias": True, "head_dim": 16}),
    "window": Case(
        "qwen3",
        "a window shorter than the sequence from the second layer on",
        {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 1, "head_dim": 16},
    ),
    "yarn": Case("qwen3", "YaRN positions beyond the original length", {"rope_parameters": YARN, "head_dim": 16}),
}
