"""Llama 2, 3, 3.1, 3.2, 3.3 and Code Llama 2."""

from family_cases import Case
from torchtune.models.llama2 import llama2
from torchtune.models.llama3 import llama3
from torchtune.models.llama3_1 import llama3_1
from torchtune.models.llama3_2 import llama3_2

SIZES = {"vocab_size": 97, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 96}
SIZES |= {"max_seq_len": 64}
EPS = {"rms_norm_eps": 1e-5}


def plain(base: float) -> dict:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": base}}


def scaled(factor: float) -> dict:
    """The old context is long beside these sequences; slow pairs turn slower all the same."""
    numbers = {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "original_max_position_embeddings": 8192}
    return {"rope_parameters": rope | numbers}


CASES = {
    "2_7b": Case(
        "llama",
        "Llama 2: as many key heads as query heads",
        EPS | {"num_key_value_heads": 4},
        builder=lambda: llama2(**SIZES | {"num_kv_heads": 4}),
    ),
    "2_70b": Case("llama", "grouped queries", EPS, builder=lambda: llama2(**SIZES)),
    "code_llama": Case(
        "llama",
        "Code Llama: another base of positions",
        EPS | plain(1e6),
        builder=lambda: llama2(**SIZES, rope_base=1e6),
    ),
    "3": Case("llama", "Llama 3", EPS | plain(5e5), builder=lambda: llama3(**SIZES)),
    "3_1": Case("llama", "Llama 3.1 and 3.3: scaled positions", EPS | scaled(8.0), builder=lambda: llama3_1(**SIZES)),
    "3_2": Case(
        "llama",
        "Llama 3.2: tied embeddings",
        EPS | scaled(32.0) | {"tie_word_embeddings": True},
        builder=lambda: llama3_2(**SIZES),
    ),
    "3_2_untied": Case(
        "llama",
        "Llama 3.2 untied",
        EPS | scaled(32.0),
        builder=lambda: llama3_2(**SIZES, tie_word_embeddings=False),
    ),
    "biases": Case("llama", "biases in attention and feed-forward", {"attention_bias": True, "mlp_bias": True}),
    "linear": Case(
        "llama",
        "linearly scaled positions, head_dim that is not dim / heads",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, "head_dim": 24},
    ),
}
