"""gpt-oss."""

from family_cases import Case
from torchtune.models.gpt_oss import gpt_oss

SIZES = {"vocab_size": 97, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 96}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 16,
}

CASES = {
    "20b": Case(
        "gpt_oss",
        "sinks, a window shorter than the sequence in every second layer, YaRN positions beyond the original length, "
        "biases everywhere, four experts for each token, head_dim that is not dim / heads",
        {
            "num_local_experts": 8,
            "head_dim": 32,
            "sliding_window": 11,
            "rms_norm_eps": 1e-3,
            "rope_parameters": YARN,
        },
        builder=lambda: gpt_oss(
            **SIZES,
            max_seq_len=64,
            head_dim=32,
            num_experts=8,
            old_context_len=16,
            sliding_window_size=11,
            norm_eps=1e-3,
        ),
    ),
    "clamped": Case(
        "gpt_oss",
        "products of the experts far beyond the limit, one expert for each token, tied embeddings, positions that are "
        "not scaled, a window in the layers that the config lists",
        {
            "num_local_experts": 5,
            "num_experts_per_tok": 1,
            "swiglu_limit": 0.5,
            "swiglu_alpha": 3.0,
            "tie_word_embeddings": True,
            "head_dim": 16,
            "sliding_window": 7,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "plain": Case(
        "gpt_oss",
        "no biases in the attention, one key head, every token sees every expert",
        {
            "num_local_experts": 3,
            "num_experts_per_tok": 3,
            "attention_bias": False,
            "num_key_value_heads": 1,
            "sliding_window": 64,
        },
    ),
}
