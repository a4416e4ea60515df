"""Qwen 3 with experts."""

from family_cases import Case
from torchtune.models.qwen3_moe import qwen3_moe

SIZES = {"vocab_size": 97, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 96}
EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 48}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 16}

CASES = {
    "30b": Case(
        "qwen3_moe",
        "sixteen experts, four for each token, scores that sum to 1, head_dim that is not dim / heads",
        EXPERTS
        | {
            "norm_topk_prob": True,
            "head_dim": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        builder=lambda: qwen3_moe(
            **SIZES, moe_intermediate_dim=48, max_seq_len=64, head_dim=32, num_experts=16, experts_per_token=4
        ),
    ),
    "mixed": Case(
        "qwen3_moe",
        "every second layer with experts, but for one; scores that do not sum to 1; tied embeddings, biases",
        EXPERTS
        | {
            "num_hidden_layers": 5,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [1],
            "norm_topk_prob": False,
            "tie_word_embeddings": True,
            "attention_bias": True,
        },
    ),
    "yarn": Case(
        "qwen3_moe",
        "YaRN positions beyond the original length, a window shorter than the sequence",
        EXPERTS | {"norm_topk_prob": True, "rope_parameters": YARN, "use_sliding_window": True, "sliding_window": 11},
    ),
}
