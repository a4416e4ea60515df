"""SmolLM 3."""

from family_cases import Case
from torchtune.models.smollm3 import smollm3

FOUR = {"num_hidden_layers": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 2e6}}

CASES = {
    "3b": Case(
        "smollm3",
        "every fourth layer without positions, tied embeddings",
        FOUR,
        builder=lambda: smollm3(97, 4, 4, 2, 64, 96, 64),
    ),
    "window": Case(
        "smollm3",
        "a window in the layers without positions, biases, one key head",
        FOUR
        | {
            "use_sliding_window": True,
            "sliding_window": 11,
            "no_rope_layer_interval": 2,
            "attention_bias": True,
            "mlp_bias": True,
            "num_key_value_heads": 1,
        },
    ),
    "named_layers": Case(
        "smollm3",
        "layers without positions and with a window by name, untied, head_dim that is not dim / heads, YaRN",
        FOUR
        | {
            "no_rope_layers": [0, 1, 1, 0],
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "use_sliding_window": True,
            "sliding_window": 5,
            "tie_word_embeddings": False,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 2e6,
                "factor": 2.7,
                "original_max_position_embeddings": 24,
            },
        },
    ),
}
