"""Qwen's builders: the numbers of the released ``config.json`` files, torchtune's names and shapes, and functions."""

import hashlib
import importlib
import inspect
import json
from dataclasses import replace

import pytest
import torch
import transformers

from torchtune.errors import CheckpointError, ConfigError
from torchtune.models import family_of, qwen2, qwen2_5, qwen3
from torchtune.models.qwen2 import Qwen2RotaryPositionalEmbeddings, qwen2_hf_to_tune, qwen2_tune_to_hf
from torchtune.modules import RotaryPositionalEmbeddings

# As transformers 4 wrote them: https://huggingface.co/Qwen/Qwen2-7B-Instruct/blob/main/config.json and so on.
COMMON = {
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
}
QWEN2 = COMMON | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "sliding_window": 131072,
    "max_window_layers": 28,
}
QWEN3 = COMMON | {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_key_value_heads": 8,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "vocab_size": 151936,
}
BASE = {"max_position_embeddings": 131072, "use_mrope": False, "eos_token_id": 151643}
LARGE_BASE = BASE | {"rms_norm_eps": 1e-05}
QWEN3_BASE = {"max_position_embeddings": 32768, "eos_token_id": 151643}
TIED, FOR_72B = {"tie_word_embeddings": True}, {"max_window_layers": 70}


def sizes(vocab, layers, heads, kv_heads, hidden, intermediate):
    return {
        "vocab_size": vocab,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
    }


_0_5B, _1_5B = sizes(151936, 24, 14, 2, 896, 4864) | TIED, sizes(151936, 28, 12, 2, 1536, 8960) | TIED
_3B, _7B = sizes(151936, 36, 16, 2, 2048, 11008) | TIED, sizes(152064, 28, 28, 4, 3584, 18944)
_14B, _32B = sizes(152064, 48, 40, 8, 5120, 13824), sizes(152064, 64, 40, 8, 5120, 27648)
_72B = sizes(152064, 80, 64, 8, 8192, 29568) | FOR_72B
RELEASED = {
    qwen2.qwen2_0_5b: QWEN2 | _0_5B,
    qwen2.qwen2_1_5b: QWEN2 | _1_5B,
    qwen2.qwen2_7b: QWEN2 | _7B,
    qwen2.qwen2_72b: QWEN2 | _72B,
    qwen2_5.qwen2_5_0_5b: QWEN2 | _0_5B,
    qwen2_5.qwen2_5_1_5b_base: QWEN2 | _1_5B | BASE,
    qwen2_5.qwen2_5_1_5b_instruct: QWEN2 | _1_5B,
    qwen2_5.qwen2_5_3b: QWEN2 | _3B,
    qwen2_5.qwen2_5_7b_base: QWEN2 | _7B | BASE,
    qwen2_5.qwen2_5_7b_instruct: QWEN2 | _7B,
    qwen2_5.qwen2_5_14b_base: QWEN2 | _14B | LARGE_BASE,
    qwen2_5.qwen2_5_14b_instruct: QWEN2 | _14B,
    qwen2_5.qwen2_5_32b_base: QWEN2 | _32B | LARGE_BASE,
    qwen2_5.qwen2_5_32b_instruct: QWEN2 | _32B,
    qwen2_5.qwen2_5_72b_base: QWEN2 | _72B | LARGE_BASE,
    qwen2_5.qwen2_5_72b_instruct: QWEN2 | _72B,
    qwen3.qwen3_0_6b_base: QWEN3 | sizes(151936, 28, 16, 8, 1024, 3072) | TIED | QWEN3_BASE,
    qwen3.qwen3_0_6b_instruct: QWEN3 | sizes(151936, 28, 16, 8, 1024, 3072) | TIED,
    qwen3.qwen3_1_7b_base: QWEN3 | sizes(151936, 28, 16, 8, 2048, 6144) | TIED | QWEN3_BASE,
    qwen3.qwen3_1_7b_instruct: QWEN3 | sizes(151936, 28, 16, 8, 2048, 6144) | TIED,
    qwen3.qwen3_4b_base: QWEN3 | sizes(151936, 36, 32, 8, 2560, 9728) | TIED | QWEN3_BASE,
    qwen3.qwen3_4b_instruct: QWEN3 | sizes(151936, 36, 32, 8, 2560, 9728) | TIED,
    qwen3.qwen3_8b_base: QWEN3 | sizes(151936, 36, 32, 8, 4096, 12288) | QWEN3_BASE,
    qwen3.qwen3_8b_instruct: QWEN3 | sizes(151936, 36, 32, 8, 4096, 12288),
    qwen3.qwen3_14b_base: QWEN3 | sizes(151936, 40, 40, 8, 5120, 17408) | QWEN3_BASE,
    qwen3.qwen3_14b_instruct: QWEN3 | sizes(151936, 40, 40, 8, 5120, 17408),
    qwen3.qwen3_32b: QWEN3 | sizes(151936, 64, 64, 8, 5120, 25600),
}


@pytest.mark.parametrize("build", RELEASED, ids=lambda build: build.__name__)
def test_numbers_are_those_of_the_released_config(build, monkeypatch):
    for module in (qwen2, qwen3):
        monkeypatch.setattr(module, "build_decoder", lambda numbers: numbers)
    config = RELEASED[build]
    for spelling in (config, transformers.AutoConfig.for_model(**config).to_dict()):
        numbers = family_of(spelling).describe(spelling)[0]
        assert set(numbers.windows) == {None}
        assert replace(numbers, windows=(None,)) == build()


# (parameters, tensors in the state dict, digest of their names and shapes) in torchtune 0.6.1 and main; those with
# adapters have them on q_proj and v_proj. Its lora_qwen3_0_6b, 4b and 32b forget that heads have 128 channels.
CONTRACTS = {
    "qwen2.lora_qwen2_0_5b": (494_573_440, 386, "31b97c708621"),
    "qwen2.lora_qwen2_1_5b": (1_544_803_840, 450, "282584588895"),
    "qwen2.lora_qwen2_7b": (7_618_139_648, 451, "dba45c0f1930"),
    "qwen2.qwen2_0_5b": (494_032_768, 290, "e37fa31fa69a"),
    "qwen2.qwen2_1_5b": (1_543_714_304, 338, "d9d19fbc0182"),
    "qwen2.qwen2_7b": (7_615_616_512, 339, "b56abdc63415"),
    "qwen2_5.lora_qwen2_5_3b": (3_087_781_888, 578, "d39281066c31"),
    "qwen2_5.qwen2_5_14b_base": (14_770_033_664, 579, "8c45b4d33dc0"),
    "qwen2_5.qwen2_5_32b_instruct": (32_763_876_352, 771, "359eac99be5a"),
    "qwen2_5.qwen2_5_3b": (3_085_938_688, 434, "d74054c8aff5"),
    "qwen2_5.qwen2_5_72b_base": (72_706_203_648, 963, "b5edfd5fb7ee"),
    "qwen3.lora_qwen3_1_7b_base": (1_722_180_608, 422, "08eee23a198d"),
    "qwen3.lora_qwen3_8b_instruct": (8_194_569_216, 543, "01aa1e73dd40"),
    "qwen3.qwen3_0_6b_base": (596_049_920, 310, "89ca5361ff82"),
    "qwen3.qwen3_14b_instruct": (14_768_307_200, 443, "aae0be00384f"),
    "qwen3.qwen3_1_7b_base": (1_720_574_976, 310, "38f2511cec3c"),
    "qwen3.qwen3_32b": (32_762_123_264, 707, "0af54821addd"),
    "qwen3.qwen3_4b_base": (4_022_468_096, 398, "1927cde66f8a"),
    "qwen3.qwen3_8b_base": (8_190_735_360, 399, "1ef3a1d685c8"),
}


@pytest.mark.parametrize("builder", CONTRACTS)
def test_names_and_shapes_are_torchtunes(builder):
    family, name = builder.split(".")
    adapters = {"lora_attn_modules": ["q_proj", "v_proj"]} if "lora" in name else {}
    with torch.device("meta"):
        model = getattr(importlib.import_module(f"torchtune.models.{family}"), name)(**adapters)
    shapes = sorted((name, list(tensor.shape)) for name, tensor in model.state_dict().items())
    digest = hashlib.sha1(json.dumps(shapes).encode()).hexdigest()[:12]
    assert (sum(p.numel() for p in model.parameters()), len(shapes), digest) == CONTRACTS[builder]


def test_builders_with_adapters_take_the_arguments_of_the_others():
    sizes = set(inspect.signature(qwen2.qwen2).parameters)
    common = set(inspect.signature(qwen2.lora_qwen2).parameters) - sizes
    for family in (qwen2, qwen2_5, qwen3):
        for name in family.__all__:
            if name.startswith("lora_") and name != "lora_qwen2":
                assert set(inspect.signature(getattr(family, name)).parameters) == common
    assert len([n for f in (qwen2, qwen2_5, qwen3) for n in f.__all__ if n.startswith("lora_")]) == 5 + 12 + 11


def test_biases_and_norms_are_all_there_or_not():
    tiny = {"vocab_size": 7, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 8, "max_seq_len": 9}
    tiny["intermediate_dim"] = 8
    none = dict.fromkeys(("q_proj_bias", "k_proj_bias", "v_proj_bias"), False)
    attention = qwen2.qwen2(**tiny, **none, q_norm=True, k_norm=True, head_dim=6).layers[0].attn
    assert attention.q_proj.bias is None and attention.k_norm.scale.shape == (6,)
    for odd in ({"k_proj_bias": False}, {"q_norm": True}):
        with pytest.raises(ConfigError, match="must be equal"):
            qwen2.qwen2(**tiny, **odd)


@pytest.mark.parametrize("config", [QWEN2 | _0_5B, QWEN3 | sizes(151936, 28, 16, 8, 1024, 3072)], ids=["2", "3"])
def test_windows(config):
    def windows(**changes):
        return family_of(config).describe(config | changes)[0].windows

    layers = config["num_hidden_layers"]
    used = {"use_sliding_window": True, "sliding_window": 9}
    assert windows(**used, max_window_layers=5) == (None,) * 5 + (9,) * (layers - 5)
    assert windows(**used, max_window_layers=99) == (None,) * layers
    listed = ["sliding_attention", "full_attention"] * (layers // 2)
    assert windows(**used, layer_types=listed) == (9, None) * (layers // 2)
    for changes in ({"layer_types": listed}, used | {"sliding_window": None, "max_window_layers": 1}):
        with pytest.raises(
            CheckpointError, match="'sliding_attention'; with use_sliding_window .*full_attention can be"
        ):
            windows(**changes)
    with pytest.raises(CheckpointError, match="'chunked_attention'.*full_attention and sliding_attention can be"):
        windows(**used, layer_types=["chunked_attention"])


def test_state_dicts_keep_the_order_of_channels():
    theirs = {
        "model.embed_tokens.weight": torch.rand(7, 4),
        "model.layers.3.self_attn.q_proj.weight": torch.rand(4, 4),
        "model.layers.3.self_attn.q_proj.bias": torch.rand(4),
        "lm_head.weight": torch.rand(7, 4),
    }
    ours = qwen2_hf_to_tune(theirs, 2, 1, 4)
    assert list(ours) == [
        "tok_embeddings.weight",
        "layers.3.attn.q_proj.weight",
        "layers.3.attn.q_proj.bias",
        "output.weight",
    ]
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values()))
    back = qwen2_tune_to_hf(ours, 2, 1, 4)
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], theirs[name]) for name in back)
    assert "output.weight" not in qwen2_hf_to_tune(theirs, tie_word_embeddings=True)
    assert "lm_head.weight" not in qwen2_tune_to_hf(ours, tie_word_embeddings=True)


def test_rotary_positions_are_those_of_hugging_faces_channels():
    x, positions = torch.randn(2, 5, 3, 8), torch.tensor([[4, 2, 0, 9, 1]] * 2)
    expected = RotaryPositionalEmbeddings(8, 10, 1e6, interleaved=False)(x, input_pos=positions)
    assert torch.equal(Qwen2RotaryPositionalEmbeddings(8, 10)(x, positions), expected)
