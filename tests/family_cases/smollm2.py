"""SmolLM 2."""

from family_cases import Case
from torchtune.models.smollm2 import smollm2

OF_RELEASES = {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}

CASES = {
    "135m": Case(
        "llama",
        "tied embeddings, three query heads to a key head",
        OF_RELEASES
        | {
            "hidden_size": 36,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        },
        builder=lambda: smollm2(3, 9, 3, 36, 96, vocab_size=97, max_seq_len=64),
    ),
    "1.7b": Case(
        "llama",
        "as many key heads as query heads",
        OF_RELEASES | {"num_key_value_heads": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 1.3e5}},
        builder=lambda: smollm2(3, 4, 4, 64, 96, vocab_size=97, max_seq_len=64, rope_base=130_000),
    ),
}
