"""Mixtral."""

from family_cases import Case
from torchtune.models.mixtral import mixtral

SIZES = {"vocab_size": 97, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 96}
LINEAR = {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0}

CASES = {
    "8x7b": Case(
        "mixtral",
        "eight experts, two for each token",
        {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        builder=lambda: mixtral(**SIZES, max_seq_len=64),
    ),
    "window": Case(
        "mixtral",
        "a window shorter than the sequence, more experts than tokens, head_dim that is not dim / heads",
        {"sliding_window": 11, "num_local_experts": 96, "num_experts_per_tok": 1, "head_dim": 32},
    ),
    "all": Case(
        "mixtral",
        "every token sees every expert; tied embeddings, stretched positions",
        {
            "num_local_experts": 3,
            "num_experts_per_tok": 3,
            "tie_word_embeddings": True,
            "rope_parameters": LINEAR,
        },
    ),
}
