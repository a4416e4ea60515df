"""Released checkpoints: their ``config.json``, which transformers 4 wrote, describes the model of our builder.

A row is the builder and the file's content, from the checkpoint's page at https://huggingface.co.
"""

from collections.abc import Callable
from functools import cache, partial
from math import prod
from typing import Any

import pytest
import torch
from torch import nn

from torchtune.errors import CheckpointError
from torchtune.models import family_of, gemma, gemma2, gemma3, granite, mistral, olmo2, olmo3, smollm2, smollm3
from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.modules.peft import LoRALinear

COMMON = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rope_scaling": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.0",
    "use_cache": True,
}
SMOLLM2 = COMMON | {
    "architectures": ["LlamaForCausalLM"],
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "tie_word_embeddings": True,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    "vocab_size": 49152,
}
SMOLLM3 = COMMON | {  # its tie_word_embeddings is the default of its class, and so not in the file
    "architectures": ["SmolLM3ForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 128256,
}
OLMO2 = COMMON | {
    "_name_or_path": "allenai/open_instruct_dev",
    "architectures": ["Olmo2ForCausalLM"],
    "eos_token_id": 100257,
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "pad_token_id": 100277,
    "rms_norm_eps": 1e-06,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}
OLMO3 = OLMO2 | {  # from memory
    "_name_or_path": None,
    "architectures": ["Olmo3ForCausalLM"],
    "max_position_embeddings": 65536,
    "model_type": "olmo3",
    "rope_scaling": {
        "attention_factor": 1.2079441541679836,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "yarn",
    },
    "sliding_window": 4096,
    "vocab_size": 100278,
}
OLMO3_LAYERS = ["sliding_attention"] * 3 + ["full_attention"]
GRANITE = COMMON | {
    "architectures": ["GraniteForCausalLM"],
    "embedding_multiplier": 12.0,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "granite",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000000.0,
    "tie_word_embeddings": True,
    "vocab_size": 49159,
}
GRANITE_2B = GRANITE | {
    "attention_multiplier": 0.015625,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "logits_scaling": 8.0,
}
GRANITE_8B = GRANITE | {
    "attention_multiplier": 0.0078125,
    "hidden_size": 4096,
    "intermediate_size": 12800,
    "logits_scaling": 16.0,
}
GRANITE_3_0 = {
    "attention_dropout": 0.1,
    "max_position_embeddings": 4096,
    "rope_theta": 10000,
    "torch_dtype": "float32",
    "vocab_size": 49152,
}

MISTRAL = COMMON | {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 131072,
}
MISTRAL_7B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": None}
MISTRAL_V0_1 = {"sliding_window": 4096, "rope_theta": 10000.0, "vocab_size": 32000}

GEMMA = COMMON | {  # that the embeddings are tied is the default of transformers 4, and so not in the file
    "architectures": ["GemmaForCausalLM"],
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 256,
    "hidden_act": "gelu",
    "hidden_activation": None,
    "max_position_embeddings": 8192,
    "model_type": "gemma",
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "vocab_size": 256000,
}
GEMMA2 = GEMMA | {
    "architectures": ["Gemma2ForCausalLM"],
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "model_type": "gemma2",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
GEMMA2_27B = {"head_dim": 128, "query_pre_attn_scalar": 144}
GEMMA3 = GEMMA | {
    "architectures": ["Gemma3ForCausalLM"],
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "hidden_act": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
GEMMA3_270M = {
    "_sliding_window_pattern": 6,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
    "sliding_window_pattern": None,
    "use_bidirectional_attention": False,
}
# The language model's part of the file; the values that it lacks are defaults.
GEMMA3_WITH_IMAGES = {
    "architectures": ["Gemma3ForCausalLM"],
    "eos_token_id": [1, 106],
    "model_type": "gemma3_text",
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
}
GEMMA3_4B = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
GEMMA3_27B = {"head_dim": 128, "query_pre_attn_scalar": 168}


def sizes(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


RELEASED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "gemma-2b": (gemma.gemma_2b, GEMMA | sizes(2048, 16384, 18, 8, 1)),
    "gemma-7b": (gemma.gemma_7b, GEMMA | sizes(3072, 24576, 28, 16, 16)),
    "gemma-2-2b": (gemma2.gemma2_2b, GEMMA2 | sizes(2304, 9216, 26, 8, 4)),
    "gemma-2-9b": (gemma2.gemma2_9b, GEMMA2 | sizes(3584, 14336, 42, 16, 8) | {"sliding_window_size": 4096}),
    "gemma-2-27b": (gemma2.gemma2_27b, GEMMA2 | sizes(4608, 36864, 46, 32, 16) | GEMMA2_27B),
    "gemma-3-270m": (gemma3.gemma3_270m, GEMMA3 | sizes(640, 2048, 18, 4, 1) | GEMMA3_270M),
    "gemma-3-1b-it": (gemma3.gemma3_1b, GEMMA3 | sizes(1152, 6912, 26, 4, 1)),
    "gemma-3-4b-it": (gemma3.gemma3_4b, GEMMA3_WITH_IMAGES | GEMMA3_4B),
    "gemma-3-12b-it": (gemma3.gemma3_12b, GEMMA3_WITH_IMAGES | sizes(3840, 15360, 48, 16, 8)),
    "gemma-3-27b-it": (gemma3.gemma3_27b, GEMMA3_WITH_IMAGES | sizes(5376, 21504, 62, 32, 16) | GEMMA3_27B),
    "SmolLM2-135M": (smollm2.smollm2_135m, SMOLLM2 | sizes(576, 1536, 30, 9, 3) | {"rope_theta": 100000}),
    "SmolLM2-360M": (smollm2.smollm2_360m, SMOLLM2 | sizes(960, 2560, 32, 15, 5) | {"rope_theta": 100000}),
    "SmolLM2-1.7B": (smollm2.smollm2_1_7b, SMOLLM2 | sizes(2048, 8192, 24, 32, 32) | {"rope_theta": 130000}),
    "SmolLM3-3B": (smollm3.smollm3_3b, SMOLLM3),
    "OLMo-2-0425-1B": (olmo2.olmo2_1b, OLMO2 | sizes(2048, 8192, 16, 16, 16)),
    "OLMo-2-1124-7B": (olmo2.olmo2_7b, OLMO2 | sizes(4096, 11008, 32, 32, 32)),
    "OLMo-2-1124-13B": (olmo2.olmo2_13b, OLMO2 | sizes(5120, 13824, 40, 40, 40)),
    "OLMo-2-0325-32B": (olmo2.olmo2_32b, OLMO2 | sizes(5120, 27648, 64, 40, 8)),
    "Olmo-3-1025-7B": (
        olmo3.olmo3_7b,
        OLMO3 | sizes(4096, 11008, 32, 32, 32) | {"layer_types": OLMO3_LAYERS * 8},
    ),
    "Olmo-3-1125-32B": (
        olmo3.olmo3_32b,
        OLMO3 | sizes(5120, 27648, 64, 40, 8) | {"layer_types": OLMO3_LAYERS * 16},
    ),
    "granite-3.0-2b-base": (partial(granite.granite3_2b, 49_152, 4096, 10_000, 0.1), GRANITE_2B | GRANITE_3_0),
    "granite-3.0-8b-base": (partial(granite.granite3_8b, 49_152, 4096, 10_000, 0.1), GRANITE_8B | GRANITE_3_0),
    "granite-3.3-2b-instruct": (granite.granite3_2b, GRANITE_2B),
    "granite-3.3-8b-instruct": (granite.granite3_8b, GRANITE_8B),
    "Mistral-7B-v0.1": (mistral.mistral_7b_v0_1, MISTRAL | MISTRAL_7B | MISTRAL_V0_1),
    "Mistral-7B-Instruct-v0.2": (mistral.mistral_7b_v0_2, MISTRAL | MISTRAL_7B | {"vocab_size": 32000}),
    "Mistral-7B-v0.3": (mistral.mistral_7b_v0_3, MISTRAL | MISTRAL_7B | {"vocab_size": 32768}),
    "Mistral-Nemo-Instruct-2407": (
        mistral.mistral_nemo_12b,
        MISTRAL | sizes(5120, 14336, 40, 32, 8) | {"max_position_embeddings": 131072},
    ),
    "Mistral-Small-24B-Base-2501": (
        mistral.mistral_small_24b,
        MISTRAL | sizes(5120, 32768, 40, 32, 8) | {"rope_theta": 100000000.0},
    ),
    "Ministral-8B-Instruct-2410": (
        mistral.ministral_8b,
        MISTRAL | sizes(4096, 12288, 36, 32, 8) | {"rope_theta": 100000000.0, "sliding_window": 32768},
    ),
}
# From the checkpoints' pages, or as torchtune counts them.
PARAMETERS = {
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b-it": 999_885_952,
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
    "granite-3.3-8b-instruct": 8_170_864_640,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "Mistral-Small-24B-Base-2501": 23_572_403_200,
    "Ministral-8B-Instruct-2410": 8_019_808_256,
}
PLAIN = (bool, int, float, str, tuple, type(None))


def described(build: Callable[[], nn.Module]) -> list[tuple[Any, ...]]:
    """Every module: its name, class, numbers and the shapes of its own parameters."""
    with torch.device("meta"):
        model = build()
    return [
        (
            name,
            type(module),
            {key: value for key, value in vars(module).items() if isinstance(value, PLAIN)},
            {key: tuple(parameter.shape) for key, parameter in module.named_parameters(recurse=False)},
        )
        for name, module in model.named_modules()
    ]


@cache
def wanted(name: str) -> list[tuple[Any, ...]]:
    return described(RELEASED[name][0])


@pytest.mark.parametrize("name", RELEASED)
def test_the_file_describes_the_builders_model(name: str) -> None:
    config = RELEASED[name][1]
    found = described(lambda: family_of(config).build(config))
    assert len(found) == len(wanted(name))
    for ours, expected in zip(found, wanted(name)):
        assert ours == expected


@pytest.mark.parametrize("name", RELEASED)
def test_transformers_5_says_the_same_in_its_spelling(name: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(**RELEASED[name][1]).to_dict()
    assert "rope_theta" not in config and "torch_dtype" not in config
    assert described(lambda: family_of(config).build(config)) == wanted(name)


@pytest.mark.parametrize("name", PARAMETERS)
def test_numbers_of_parameters(name: str) -> None:
    assert sum(prod(shape) for *_, shapes in wanted(name) for shape in shapes.values()) == PARAMETERS[name]


def test_an_unknown_type_of_layer_is_refused_by_name() -> None:
    config = SMOLLM3 | {"layer_types": ["full_attention"] * 35 + ["chunked_attention"]}
    with pytest.raises(CheckpointError, match="chunked_attention.*known are.*full_attention"):
        family_of(config).build(config)


@pytest.mark.parametrize(
    "build",
    [
        smollm2.qlora_smollm2_135m,
        smollm3.qlora_smollm3_3b,
        olmo2.qlora_olmo2_1b,
        olmo3.qlora_olmo3_7b,
        granite.qlora_granite3_2b,
    ],
    ids=["smollm2", "smollm3", "olmo2", "olmo3", "granite"],
)
def test_adapters_over_4_bits(build: Callable[..., nn.Module]) -> None:
    with torch.device("meta"):
        layer = build(["q_proj"], apply_lora_to_mlp=True).layers[1]
    assert [type(m) for m in (layer.attn.q_proj, layer.attn.k_proj)] == [LoRALinear, FrozenNF4Linear]
    assert all(type(m) is LoRALinear for m in (layer.mlp.w1, layer.mlp.w2, layer.mlp.w3))
