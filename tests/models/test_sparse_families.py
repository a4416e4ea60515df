"""Families with experts: released checkpoints' ``config.json``, what is refused of it, adapters over 4 bits."""

from functools import partial
from math import prod

import pytest
import torch
from test_released_configs import COMMON, described, sizes

from torchtune.errors import CheckpointError
from torchtune.models import family_of, gpt_oss, llama4, mixtral, qwen3_moe
from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.modules.moe import GroupedExperts, LoRAGroupedExperts, softmax_over_all, softmax_over_chosen
from torchtune.modules.peft import adapter_names

MIXTRAL = COMMON | {
    "architectures": ["MixtralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 32768,
    "model_type": "mixtral",
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
QWEN3_MOE = COMMON | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
# The language model's part of the file; transformers 4 wrote all that its class assumed.
LLAMA4 = COMMON | {
    "architectures": ["Llama4ForCausalLM"],
    "attention_chunk_size": 8192,
    "attn_scale": 0.1,
    "attn_temperature_tuning": True,
    "bos_token_id": 200000,
    "cache_implementation": "hybrid",
    "eos_token_id": [200001, 200007, 200008],
    "floor_scale": 8192,
    "for_llm_compressor": False,
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "model_type": "llama4_text",
    "no_rope_layers": [1, 1, 1, 0] * 12,
    "num_attention_heads": 40,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "output_router_logits": False,
    "pad_token_id": 200018,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
    "vocab_size": 202048,
}
SCOUT = LLAMA4 | {
    "interleave_moe_layer_step": 1,
    "moe_layers": list(range(48)),
    "num_local_experts": 16,
    "use_qk_norm": True,
}
SCOUT_ROPE = {"low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}
MAVERICK = LLAMA4 | {
    "interleave_moe_layer_step": 2,
    "max_position_embeddings": 1048576,
    "moe_layers": list(range(1, 48, 2)),
    "num_local_experts": 128,
    "use_qk_norm": False,
}
GPT_OSS = COMMON | {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "initial_context_length": 4096,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_experts_per_tok": 4,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "quantization_config": {"modules_to_not_convert": ["model.layers.*.self_attn"], "quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}
GPT_OSS_LAYERS = ["sliding_attention", "full_attention"]
# From the checkpoints' pages, with the numbers of parameters there.
RELEASED = {
    "Llama-4-Scout-17B-16E": (
        partial(llama4.llama4_scout_17b_16e_text, 262_144, 8.0, 4.0),
        SCOUT
        | {"max_position_embeddings": 262144, "rope_scaling": SCOUT_ROPE | {"factor": 8.0, "high_freq_factor": 4.0}},
        107_769_861_120,
    ),
    "Llama-4-Scout-17B-16E-Instruct": (
        llama4.llama4_scout_17b_16e_text,
        SCOUT
        | {"max_position_embeddings": 10485760, "rope_scaling": SCOUT_ROPE | {"factor": 16.0, "high_freq_factor": 1.0}},
        107_769_861_120,
    ),
    "Llama-4-Maverick-17B-128E-Instruct": (llama4.llama4_maverick_17b_128e_text, MAVERICK, 400_711_848_960),
    "gpt-oss-20b": (
        gpt_oss.gpt_oss_20b,
        GPT_OSS | sizes(2880, 2880, 24, 64, 8) | {"layer_types": GPT_OSS_LAYERS * 12, "num_local_experts": 32},
        20_914_757_184,
    ),
    "gpt-oss-120b": (
        gpt_oss.gpt_oss_120b,
        GPT_OSS | sizes(2880, 2880, 36, 64, 8) | {"layer_types": GPT_OSS_LAYERS * 18, "num_local_experts": 128},
        116_829_156_672,
    ),
    "Mixtral-8x7B-v0.1": (mixtral.mixtral_8x7b, MIXTRAL | sizes(4096, 14336, 32, 32, 8), 46_702_792_704),
    "Mixtral-8x22B-v0.1": (
        mixtral.mixtral_8x22b,
        MIXTRAL | sizes(6144, 16384, 56, 48, 8) | {"max_position_embeddings": 65536, "router_aux_loss_coef": 0.001},
        140_620_634_112,
    ),
    "Qwen3-30B-A3B": (
        qwen3_moe.qwen3_30b_a3b,
        QWEN3_MOE | sizes(2048, 6144, 48, 32, 4) | {"max_window_layers": 48, "moe_intermediate_size": 768},
        30_532_122_624,
    ),
    "Qwen3-235B-A22B": (
        qwen3_moe.qwen3_235b_a22b,
        QWEN3_MOE | sizes(4096, 12288, 94, 64, 4) | {"max_window_layers": 94, "moe_intermediate_size": 1536},
        235_093_634_560,
    ),
}


def on_meta(build):
    with torch.device("meta"):
        return build()


@pytest.mark.parametrize("name", RELEASED)
def test_the_file_describes_the_builders_model(name):
    from transformers import AutoConfig

    build, config, parameters = RELEASED[name]
    expected = described(build)
    assert sum(prod(shape) for *_, shapes in expected for shape in shapes.values()) == parameters
    for spelling in (config, AutoConfig.for_model(**config).to_dict()):
        found = described(lambda spelling=spelling: family_of(spelling).build(spelling))
        assert len(found) == len(expected)
        assert all(ours == theirs for ours, theirs in zip(found, expected))


def test_scores_are_those_of_the_config():
    tiny = QWEN3_MOE | sizes(64, 96, 2, 4, 2) | {"moe_intermediate_size": 48, "vocab_size": 97, "num_experts": 4}
    for norm_topk_prob, choose in ((True, softmax_over_chosen), (False, softmax_over_all)):
        config = tiny | {"norm_topk_prob": norm_topk_prob, "num_experts_per_tok": 2}
        model = on_meta(lambda config=config: family_of(config).build(config))
        assert model.layers[1].mlp.router.choose is choose
    assert on_meta(qwen3_moe.qwen3_30b_a3b).layers[0].mlp.router.choose is softmax_over_chosen
    assert on_meta(mixtral.mixtral_8x7b).layers[0].mlp.router.choose is softmax_over_chosen


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("Mixtral-8x7B-v0.1", {"output_router_logits": True}, "output_router_logits: True.*set .* to False"),
        ("Mixtral-8x7B-v0.1", {"router_jitter_noise": 0.1}, "router_jitter_noise: 0.1.*set .* to 0.0"),
        ("Mixtral-8x7B-v0.1", {"num_local_experts": None}, "lacks 'num_local_experts'"),
        ("Mixtral-8x7B-v0.1", {"num_experts_per_tok": None}, "lacks 'num_experts_per_tok'"),
        ("Qwen3-30B-A3B", {"output_router_logits": True}, "output_router_logits: True"),
        ("Qwen3-30B-A3B", {"use_sliding_window": True, "sliding_window": 9}, "from layer 48 on .max_window_layers"),
        ("Qwen3-30B-A3B", {"moe_intermediate_size": None}, "lacks 'moe_intermediate_size'"),
        ("Llama-4-Scout-17B-16E", {"layer_types": ["sliding_attention"] * 48}, "sliding_attention.*known are"),
        ("Llama-4-Scout-17B-16E", {"no_rope_layers": [1, 0]}, "no_rope_layers has 2 entries"),
        ("gpt-oss-20b", {"layer_types": ["chunked_attention"] * 24}, "chunked_attention.*known are"),
        ("Qwen3-30B-A3B", {"shared_expert_intermediate_size": 64}, "shared_expert_intermediate_size"),
    ],
)
def test_what_is_refused(name, change, told):
    config = RELEASED[name][1] | change
    with pytest.raises(CheckpointError, match=told):
        on_meta(lambda: family_of(config).build(config))


SMALL = {"vocab_size": 97, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 64, "intermediate_dim": 128}


def test_adapters_over_4_bits():
    build = qwen3_moe.lora_qwen3_moe
    settings = SMALL | {"moe_intermediate_dim": 64, "max_seq_len": 16, "num_experts": 4, "mlp_only_layers": [1]}
    model = build(["q_proj"], apply_lora_to_mlp=True, quantize_base=True, lora_rank=4, **settings)
    sparse, dense = model.layers
    assert type(sparse.mlp.experts) is LoRAGroupedExperts and sparse.mlp.experts.rank == 4
    assert {type(m).__name__ for m in (dense.mlp.w1, dense.mlp.w2, dense.mlp.w3)} == {"LoRALinear"}
    assert sparse.mlp.experts.gate_proj.dtype == torch.uint8 and sparse.mlp.router.gate.weight.is_floating_point()
    assert [n for n in adapter_names(model) if "experts" in n] == [
        f"layers.0.mlp.experts.lora_{stack}_{end}" for stack in ("gate", "up", "down") for end in "ab"
    ]
    only_attention = build(["q_proj"], quantize_base=True, **settings)
    sparse, dense = only_attention.layers
    assert type(sparse.mlp.experts) is GroupedExperts and sparse.mlp.experts.gate_proj.dtype == torch.uint8
    assert type(dense.mlp.w1) is FrozenNF4Linear
    ranks = {"experts": 2, "w2": 8}
    model = build(["q_proj"], apply_lora_to_mlp=True, lora_rank=4, rank_pattern=ranks, **settings)
    assert (model.layers[0].mlp.experts.rank, model.layers[1].mlp.w2.rank, model.layers[1].mlp.w1.rank) == (2, 8, 4)


def test_named_builders_with_adapters():
    for build in (
        mixtral.qlora_mixtral_8x7b,
        qwen3_moe.qlora_qwen3_30b_a3b,
        gpt_oss.qlora_gpt_oss_20b,
    ):
        experts = on_meta(lambda build=build: build(["q_proj"], apply_lora_to_mlp=True)).layers[1].mlp.experts
        assert isinstance(experts, LoRAGroupedExperts) and experts.up_proj.dtype == torch.uint8


def test_the_router_can_be_trained_in_full_beside_adapters():
    model = mixtral.lora_mixtral(["q_proj"], trainable_modules=["gate"], max_seq_len=16, **SMALL)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert [name for name in trained if "lora" not in name] == [f"layers.{i}.mlp.router.gate.weight" for i in (0, 1)]
