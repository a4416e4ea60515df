"""OLMo 3."""

from family_cases import Case
from torchtune.models.olmo3 import olmo3

PLAIN = {"rope_type": "default", "rope_theta": 5e5}
YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 16}
BASE = {"rms_norm_eps": 1e-6, "sliding_window": 11}

CASES = {
    "32b": Case(
        "olmo3",
        "a window shorter than the sequence in three layers of four, YaRN positions beyond the original length in the "
        "fourth, norms after attention and feed-forward and over all heads; grouped queries",
        BASE | {"num_hidden_layers": 5, "rope_parameters": {"sliding_attention": PLAIN, "full_attention": YARN}},
        builder=lambda: olmo3(
            97, 5, 4, 2, 64, 96, 64, rope_scale_factor=4.0, original_max_seq_len=16, sliding_window_size=11
        ),
    ),
    "7b": Case(
        "olmo3",
        "as many key heads as query heads, positions that are not scaled, heads of 24 channels",
        BASE | {"num_hidden_layers": 4, "num_key_value_heads": 4, "head_dim": 24},
    ),
    "tied": Case(
        "olmo3",
        "a window in the layers that the config lists, each kind with a base of its own; tied embeddings, biases",
        BASE
        | {
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {"sliding_attention": PLAIN | {"rope_theta": 1e3}, "full_attention": PLAIN},
            "tie_word_embeddings": True,
            "attention_bias": True,
            "rms_norm_eps": 0.01,
        },
    ),
}
