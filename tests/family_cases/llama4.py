"""Llama 4, the language model."""

from family_cases import Case
from torchtune.models.llama4 import llama4_decoder

SIZES = {
    "vocab_size": 97,
    "num_layers": 5,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 64,
    "hidden_dim": 48,
    "max_seq_len": 64,
    "norm_eps": 1e-3,
}
BASE = {
    "num_hidden_layers": 5,
    "intermediate_size": 48,
    "intermediate_size_mlp": 96,
    "head_dim": 16,
    "rms_norm_eps": 1e-3,
    "num_local_experts": 6,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 1.0,
    "original_max_position_embeddings": 16,
}
UNSCALED = {"rope_type": "default", "rope_theta": 5e5}

CASES = {
    "scout": Case(
        "llama4_text",
        "one expert of six besides the one that all tokens see, scores that multiply what it gets, chunks shorter than "
        "the sequence, scaled positions beyond the original length, normalised heads; every fourth layer without "
        "positions, its queries tuned",
        BASE | {"attention_chunk_size": 11, "rope_parameters": SCALED, "floor_scale": 5, "attn_scale": 0.3},
        builder=lambda: llama4_decoder(
            **SIZES,
            num_experts=6,
            skip_rope_interval=4,
            attention_chunk_size=11,
            use_scaled_rope=True,
            old_context_len=16,
            attn_temperature_tuning=(0.3, 5),
        ),
    ),
    "maverick": Case(
        "llama4_text",
        "every second layer with experts, heads that are not normalised, a chunk longer than the sequence",
        BASE
        | {
            "interleave_moe_layer_step": 2,
            "use_qk_norm": False,
            "attention_chunk_size": 64,
            "rope_parameters": UNSCALED,
            "floor_scale": 7,
        },
        builder=lambda: llama4_decoder(
            **SIZES,
            num_experts=6,
            moe_every_n_layers=2,
            mlp_hidden_dim=96,
            skip_rope_interval=4,
            attention_chunk_size=64,
            use_qk_norm=False,
            attn_temperature_tuning=(0.1, 7),
        ),
    ),
    "several": Case(
        "llama4_text",
        "three experts for each token, experts and layers without positions where the config has them, queries that "
        "are not tuned, tied embeddings, biases, head_dim that is not dim / heads",
        BASE
        | {
            "num_experts_per_tok": 3,
            "moe_layers": [0, 3],
            "no_rope_layers": [1, 0, 0, 1, 1],
            "attn_temperature_tuning": False,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "head_dim": 32,
            "attention_chunk_size": 16,
            "rope_parameters": UNSCALED,
        },
    ),
}
