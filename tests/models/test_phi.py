"""Phi 3 and Phi 4: released checkpoints, names and shapes, and the functions that split fused projections.

The contents of ``config.json`` are those of the checkpoints at https://huggingface.co/microsoft, which transformers 4
wrote.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from family_cases.phi3 import CASES
from torch import nn

from torchtune.errors import CheckpointError
from torchtune.models import family_for_model_type, family_of
from torchtune.models.phi3 import (
    PHI3,
    Phi3RotaryPositionalEmbeddings,
    lora_phi3_mini,
    phi3,
    phi3_hf_to_tune,
    phi3_mini,
    phi3_mini_128k,
    phi3_tune_to_hf,
    qlora_phi3_mini,
    qlora_phi3_mini_128k,
)
from torchtune.models.phi4 import lora_phi4_14b, lora_phi4_mini, phi4_14b, phi4_mini, qlora_phi4_mini
from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.modules.peft import LoRALinear

PHI = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    },
    "embd_pdrop": 0.0,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.2",
    "use_cache": True,
}
MINI = PHI | {
    "_name_or_path": "Phi-3-mini-4k-instruct",
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}
MINI |= {"max_position_embeddings": 4096, "sliding_window": 2047, "vocab_size": 32064}
LONG = [
    1.0700000524520874, 1.1200000047683716, 1.149999976158142, 1.4199999570846558, 1.5699999332427979,
    1.7999999523162842, 2.129999876022339, 2.129999876022339, 3.009999990463257, 5.910000324249268, 6.950000286102295,
    9.070000648498535, 9.930000305175781, 10.710000038146973, 11.130000114440918, 14.609999656677246,
    15.409998893737793, 19.809999465942383, 37.279998779296875, 38.279998779296875, 38.599998474121094,
    40.12000274658203, 46.20000457763672, 50.940006256103516, 53.66000747680664, 54.9373893737793, 56.89738845825195,
    57.28738784790039, 59.98738479614258, 60.86738586425781, 60.887386322021484, 61.71739196777344, 62.91739273071289,
    62.957393646240234, 63.41739273071289, 63.8173942565918, 63.83739471435547, 63.897396087646484, 63.93739700317383,
    64.06739807128906, 64.11434936523438, 64.12435150146484, 64.15435028076172, 64.19435119628906, 64.24435424804688,
    64.57435607910156, 64.69000244140625, 64.76000213623047,
]  # fmt: skip
SHORT = [
    *[1.1] * 3, 1.3000000000000003, *[1.3500000000000003] * 2, 1.4000000000000004, 1.5500000000000005,
    *[2.000000000000001] * 17, *[2.0500000000000007] * 6, *[2.1000000000000005] * 2, 2.1500000000000004, *[2.25] * 5,
    2.3999999999999995, 2.4499999999999993, 2.499999999999999, *[2.6999999999999984] * 2, 2.7499999999999982,
    2.799999999999998, 2.8999999999999977, 3.049999999999997,
]  # fmt: skip
MINI_128K = MINI | {
    "max_position_embeddings": 131072,
    "rope_scaling": {"long_factor": LONG, "short_factor": SHORT, "type": "longrope"},
    "sliding_window": 262144,
}
PHI4 = PHI | {
    "bos_token_id": 100257,
    "eos_token_id": 100265,
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "max_position_embeddings": 16384,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 10,
    "original_max_position_embeddings": 16384,
    "pad_token_id": 100349,
    "rope_theta": 250000,
    "sliding_window": None,
    "vocab_size": 100352,
}
PHI4_MINI = PHI | {
    "bos_token_id": 199999,
    "eos_token_id": 199999,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "pad_token_id": 199999,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {
        "long_factor": [
            1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898,
            2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424,
            6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252,
            16.37415215, 18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23,
            32.6, 32.61, 32.64, 32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
        ],
        "short_factor": [1.0] * 48,
        "type": "longrope",
    },
    "sliding_window": 262144,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}  # fmt: skip
# Parameters: of Phi 3 mini and Phi 4 as torchtune counts them, of Phi 4 mini as its page does.
RELEASED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], int]] = {
    "Phi-3-mini-4k-instruct": (phi3_mini, MINI, 3_821_079_552),
    "Phi-3-mini-128k-instruct": (phi3_mini_128k, MINI_128K, 3_821_079_552),
    "phi-4": (phi4_14b, PHI4, 14_659_507_200),
    "Phi-4-mini-instruct": (phi4_mini, PHI4_MINI, 3_836_021_760),
}


def on_meta(build: Callable[..., nn.Module], *args) -> nn.Module:
    with torch.device("meta"):
        return build(*args)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def numbers(model: nn.Module) -> tuple[Any, ...]:
    """What the weights do not show."""
    attn, norm = model.layers[-1].attn, model.layers[-1].mlp_norm
    attn.pos_embeddings.rope_init()  # off the meta device
    window = None if attn.window is None or attn.window > model.max_seq_len else attn.window
    return model.max_seq_len, attn.num_heads, attn.num_kv_heads, attn.head_dim, window, attn.attn_dropout, norm.eps


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("spelling", [4, 5])
def test_released_files_describe_the_builders_models(name: str, spelling: int) -> None:
    build, config, parameters = RELEASED[name]
    if spelling == 5:
        from transformers import AutoConfig

        config = AutoConfig.for_model(**config).to_dict()
        assert "rope_theta" not in config and "torch_dtype" not in config
    found, expected = on_meta(family_of(config).build, config), on_meta(build)
    assert shapes(found) == shapes(expected) and numbers(found) == numbers(expected)
    ropes = [model.layers[-1].attn.pos_embeddings for model in (found, expected)]
    assert ropes[0].magnitude == ropes[1].magnitude and ropes[0].dim == ropes[1].dim
    for ours, theirs in zip(*(rope.buffers() for rope in ropes), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert sum(parameter.numel() for parameter in found.parameters()) == parameters


def test_the_first_files_call_longrope_su() -> None:
    config = MINI_128K | {"rope_scaling": MINI_128K["rope_scaling"] | {"type": "su"}}
    assert on_meta(PHI3.build, config).layers[0].attn.pos_embeddings.max_cached_positions == 0


@pytest.mark.parametrize(
    "key",
    [("resid_pdrop", 0.1), ("embd_pdrop", 0.1), ("full_attn_mod", 2), ("interpolate_factor", 4), ("lm_head_bias", 1)],
)
def test_what_this_decoder_is_not_is_refused_by_name(key: tuple[str, float]) -> None:
    with pytest.raises(CheckpointError, match=f"{key[0]}.*{key[1]}"):
        on_meta(PHI3.build, PHI4_MINI | dict([key]))


def test_longrope_with_too_few_factors() -> None:
    scaling = MINI_128K["rope_scaling"] | {"short_factor": SHORT[:-1]}
    with pytest.raises(ValueError, match="48 pairs, but there are 47 short and 48 long"):
        on_meta(PHI3.build, MINI_128K | {"rope_scaling": scaling})


def test_model_types_of_torchtunes_configs() -> None:
    assert family_for_model_type("PHI3_MINI") is PHI3 and family_for_model_type("phi4") is PHI3


@pytest.mark.parametrize("name", ["mini", "window"])
def test_fused_projections_are_split_and_joined(name: str) -> None:
    theirs = CASES[name].oracle()
    ours = PHI3.build(theirs.config.to_dict())
    sizes = theirs.config.num_attention_heads, theirs.config.num_key_value_heads, theirs.config.hidden_size
    found = phi3_hf_to_tune(theirs.state_dict(), *sizes)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == shapes(ours)
    ours.load_state_dict(found)
    tokens = torch.arange(40)[None]
    torch.testing.assert_close(ours.eval()(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
    back = phi3_tune_to_hf(found)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in theirs.state_dict().items())
    if name == "mini":  # queries, keys and values alike, as torchtune takes them when it is told nothing
        alike = phi3_hf_to_tune(theirs.state_dict(), None, None, None)
        assert all(torch.equal(alike[key], tensor) for key, tensor in found.items())


def test_an_unknown_tensor_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\.self_attn\.qk_proj\.weight"):
        phi3_hf_to_tune({"model.layers.0.self_attn.qk_proj.weight": torch.ones(2, 2)}, 1, 1, 2)


def test_positions_are_those_of_the_builder() -> None:
    x = torch.randn(2, 7, 3, 16)
    of_model = phi3(97, 1, 4, 2, 64, 96, 32).layers[0].attn.pos_embeddings
    assert torch.equal(Phi3RotaryPositionalEmbeddings(16, 32)(x), of_model(x))


@pytest.mark.parametrize("build", [lora_phi3_mini, lora_phi4_14b, lora_phi4_mini])
def test_adapters(build: Callable[..., nn.Module]) -> None:
    layer = on_meta(build, ["q_proj", "v_proj"], True).layers[1]
    kinds = [type(m) for m in (layer.attn.q_proj, layer.attn.k_proj, layer.attn.v_proj, layer.mlp.w1, layer.mlp.w3)]
    assert kinds == [LoRALinear, nn.Linear, LoRALinear, LoRALinear, LoRALinear]


@pytest.mark.parametrize("build", [qlora_phi3_mini, qlora_phi3_mini_128k, qlora_phi4_mini])
def test_adapters_over_4_bits(build: Callable[..., nn.Module]) -> None:
    layer = on_meta(build, ["q_proj"]).layers[1]
    assert [type(m) for m in (layer.attn.q_proj, layer.attn.k_proj)] == [LoRALinear, FrozenNF4Linear]
