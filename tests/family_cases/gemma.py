"""Gemma."""

from family_cases import Case
from torchtune.models.gemma import gemma

SIZES = {"vocab_size": 97, "num_layers": 3, "num_heads": 4, "embed_dim": 64, "intermediate_dim": 96, "max_seq_len": 64}
BASE = {"head_dim": 32}
STD = 0.2  # embeddings are eight times as large as in the files

CASES = {
    "2b": Case(
        "gemma",
        "embeddings times sqrt(dim), norms about one, head_dim that is not dim / heads, one key head, tied embeddings",
        BASE | {"num_key_value_heads": 1},
        std=STD,
        builder=lambda: gemma(**SIZES, head_dim=32, num_kv_heads=1),
    ),
    "7b": Case("gemma", "as many key heads as heads", BASE | {"num_key_value_heads": 4, "rope_theta": 500.0}, std=STD),
    "untied": Case("gemma", "untied embeddings, grouped queries", BASE | {"tie_word_embeddings": False}, std=STD),
}
