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
    "window": Case("mistral", "a window shorter than the sequence", {"sliding_window": 11}),
    "nemo": Case("mistral", "head_dim that is not dim / heads", {"sliding_window": None, "head_dim": 32}),
    "tied": Case("mistral", "tied embeddings, one key head", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
}
