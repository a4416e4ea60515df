"""Mistral."""

from family_cases import Case
from torchtune.models.mistral import mistral

SIZES = {"vocab_size": 97, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 96}

CASES = {
    "7b": Case(
        "mistral",
        "grouped queries, no window",
        {"sliding_window": None, "rms_norm_eps": 1e-5},
        builder=lambda: mistral(**SIZES, max_seq_len=64),
    ),
    "7b_v0_3": Case("mistral", "a base of a million", {"sliding_window": None, "rope_theta": 1e6}),
    "window": Case("mistral", "a window shorter than the sequence", {"sliding_window": 11}),
    "nemo": Case("mistral", "head_dim that is not dim / heads", {"sliding_window": None, "head_dim": 32}),
    "ministral": Case(
        "ministral",
        "a window in some layers",
        {
            "head_dim": 32,
            "sliding_window": 11,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
    ),
    "small": Case(
        "mistral",
        "channels of heads that are fewer than dim, few keys",
        {"sliding_window": None, "head_dim": 8, "num_attention_heads": 6, "num_key_value_heads": 1, "rope_theta": 1e9},
    ),
    "tied": Case("mistral", "tied embeddings, one key head", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
}
