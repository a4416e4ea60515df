"""OLMo 2."""

from family_cases import Case
from torchtune.models.olmo2 import olmo2

BASE = {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}

CASES = {
    "32b": Case(
        "olmo2",
        "norms after attention and feed-forward, and over all heads of queries and of keys; grouped queries",
        BASE,
        builder=lambda: olmo2(97, 3, 4, 2, 64, 96, 64),
    ),
    "7b": Case("olmo2", "as many key heads as query heads", BASE | {"num_key_value_heads": 4}),
    "tied": Case("olmo2", "tied embeddings, biases", BASE | {"tie_word_embeddings": True, "attention_bias": True}),
}
