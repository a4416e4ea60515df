"""Phi 3."""

from family_cases import Case
from torchtune.models.phi3 import phi3

SIZES = {"vocab_size": 97, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 96}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.02, 1.05, 1.1, 1.3, 1.4, 1.9, 2.1],
    "long_factor": [1.07, 1.4, 3.0, 6.0, 9.9, 20.0, 46.0, 64.0],
}

CASES = {
    "mini": Case(
        "phi3",
        "projections that are one in the files, a key head for each query head",
        {"sliding_window": None, "num_key_value_heads": 4},
        builder=lambda: phi3(**SIZES | {"num_kv_heads": 4}, max_seq_len=64),
    ),
    "window": Case("phi3", "a window shorter than the sequence, grouped queries", {"sliding_window": 11}),
    "128k within": Case(
        "phi3",
        "LongRoPE, positions within the original context",
        {"rope_parameters": LONG, "original_max_position_embeddings": 48, "max_position_embeddings": 1024},
    ),
    # Shorter than every document and every part of a cached sequence: what crosses it gets other angles midway.
    "128k beyond": Case(
        "phi3",
        "LongRoPE, positions beyond the original context",
        {"rope_parameters": LONG, "original_max_position_embeddings": 11, "max_position_embeddings": 1024},
    ),
}
