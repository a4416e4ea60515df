"""Qwen 2 and 2.5."""

from family_cases import Case
from torchtune.models.qwen2 import qwen2

SIZES = {"vocab_size": 97, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 96}
THETA = {"rope_type": "default", "rope_theta": 1e6}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}

CASES = {
    "7b": Case(
        "qwen2",
        "biases on queries, keys and values; grouped queries",
        {"rope_parameters": THETA, "rms_norm_eps": 1e-6},
        builder=lambda: qwen2(**SIZES, max_seq_len=64, norm_eps=1e-6),
    ),
    "0.5b": Case(
        "qwen2",
        "tied embeddings, seven queries to a key head, heads of 8 channels",
        {"tie_word_embeddings": True, "hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1},
    ),
    "window": Case(
        "qwen2",
        "a window shorter than the sequence from the second layer on",
        {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 1},
    ),
    "layer types": Case(
        "qwen2",
        "a window in the layers that the config lists",
        {
            "use_sliding_window": True,
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "yarn": Case("qwen2", "YaRN positions beyond the original length", {"rope_parameters": YARN}),
}
