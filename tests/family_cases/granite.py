"""Granite."""

from family_cases import Case
from torchtune.models.granite import granite

FACTORS = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 1 / 64,
    "logits_scaling": 8.0,
}
BASE = FACTORS | {"rms_norm_eps": 1e-5, "tie_word_embeddings": True}

CASES = {
    "2b": Case(
        "granite",
        "factors of embedding, residual, scores and logits; tied embeddings",
        BASE,
        builder=lambda: granite(97, 3, 4, 2, 64, 96, 64, *FACTORS.values()),
    ),
    "untied": Case(
        "granite",
        "untied, biases, factors that are no powers of two",
        BASE
        | {
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
            "attention_multiplier": 0.3,
            "logits_scaling": 0.7,
        },
    ),
    "no_factors": Case("granite", "factors of one, head_dim that is not dim / heads", {"head_dim": 32}),
}
