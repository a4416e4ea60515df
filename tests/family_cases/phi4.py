"""Phi 4."""

from family_cases import Case
from family_cases.phi3 import LONG, SIZES
from torchtune.models.phi3 import phi3

PARTLY = LONG | {name: LONG[name][:6] for name in ("short_factor", "long_factor")}

CASES = {
    "14b": Case(
        "phi3",
        "Phi 3 with grouped queries and another base of positions",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 2.5e5}, "original_max_position_embeddings": 64},
        builder=lambda: phi3(**SIZES, max_seq_len=64, rope_base=250_000),
    ),
    "mini": Case(
        "phi3",
        "LongRoPE on three quarters of a head's channels, tied embeddings, beyond the original context",
        {
            "rope_parameters": PARTLY | {"partial_rotary_factor": 0.75},
            "original_max_position_embeddings": 11,
            "tie_word_embeddings": True,
            "partial_rotary_factor": 0.75,
        },
    ),
}
