"""Builders with adapters: the plain model of the same arguments, changed as they say."""

import inspect

import pytest
import torch

from torchtune.errors import ConfigError
from torchtune.models import code_llama2, llama2, llama3, llama3_1, llama3_2, llama3_3
from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.modules.peft import DoRALinear, LoRALinear, adapted_layers, adapter_spec

SIZES = {"vocab_size": 40, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 64, "max_seq_len": 9000}
# arguments that are not the defaults, so that one which goes astray is noticed
OF_SIZE = {
    llama2.lora_llama2: (llama2.llama2, {"norm_eps": 0.1, "rope_base": 50.0, "attn_dropout": 0.5}),
    llama2.lora_llama2_classifier: (llama2.llama2_classifier, {"num_classes": 3, "norm_eps": 0.1}),
    llama3.lora_llama3: (llama3.llama3, {"norm_eps": 0.1, "rope_base": 50.0}),
    llama3_1.lora_llama3_1: (llama3_1.llama3_1, {"norm_eps": 0.1, "rope_base": 50.0, "scale_factor": 2}),
    llama3_2.lora_llama3_2: (llama3_2.llama3_2, {"norm_eps": 0.1, "scale_factor": 2, "tie_word_embeddings": False}),
}
NAMED = [
    getattr(family, name)
    for family in (code_llama2, llama2, llama3, llama3_1, llama3_2, llama3_3)
    for name in family.__all__
    if name.startswith(("lora_", "qlora_")) and name not in {build.__name__ for build in OF_SIZE}
]


@pytest.mark.parametrize("build", OF_SIZE, ids=lambda build: build.__name__)
def test_fresh_adapters_leave_the_plain_model(build):
    build_plain, more = OF_SIZE[build]
    sizes = SIZES | {"intermediate_dim": 96} | more
    torch.manual_seed(0)
    plain = build_plain(**sizes).eval()
    adapted = build(["q_proj"], True, True, **sizes, lora_rank=2, lora_alpha=4).eval()
    left = adapted.load_state_dict(plain.state_dict(), strict=False)
    assert not left.unexpected_keys and all("lora_" in name for name in left.missing_keys)
    assert {name.rpartition(".")[2] for name in adapted_layers(adapted)} == {"q_proj", "w1", "w2", "w3", "output"}
    assert adapted.layers[0].attn.attn_dropout == plain.layers[0].attn.attn_dropout
    tokens, positions = torch.arange(20)[None], torch.arange(0, 9000, 450)[None]
    with torch.no_grad():
        torch.testing.assert_close(adapted(tokens, input_pos=positions), plain(tokens, input_pos=positions))


def test_there_are_as_many_as_documented():
    assert len(NAMED) == 3 + 3 + 4 + 4 + 2 + 2 + 3 + 3 + 2 + 2 + 1 + 1


@pytest.mark.parametrize("build", NAMED, ids=range(len(NAMED)))
def test_all_take_the_same_arguments(build):
    given = inspect.signature(build).parameters
    common = set(inspect.signature(llama3_3.lora_llama3_3_70b).parameters)
    assert set(given) - {"tie_word_embeddings"} == common


def test_arguments_reach_the_layers():
    settings = {"lora_rank": 3, "lora_alpha": 5, "lora_dropout": 0.25, "use_dora": True, "quantize_base": True}
    settings |= {"use_rslora": True, "rank_pattern": {"w2": 2}, "alpha_pattern": {"w3": 7}}
    with torch.device("meta"):
        model = llama3_2.lora_llama3_2_1b(["k_proj"], True, **settings, trainable_modules=["norm"])
    layer, spec = model.layers[3].mlp, adapter_spec(model)
    assert type(layer.w1) is DoRALinear and type(model.layers[3].attn.q_proj) is FrozenNF4Linear
    assert (layer.w2.rank, layer.w3.alpha, layer.w1.rank, layer.w1.alpha) == (2, 7, 3, 5)
    assert (spec.dropout, spec.use_rslora, spec.use_dora, spec.trained) == (0.25, True, True, ("norm.scale",))


def test_qlora_is_lora_in_4_bits():
    with torch.device("meta"):
        quantised = llama3_2.qlora_llama3_2_1b(["q_proj"])
        plain = llama3_2.qlora_llama3_2_1b(["q_proj"], quantize_base=False)
    kinds = [type(m.layers[0].attn.k_proj) for m in (quantised, plain)]
    assert kinds == [FrozenNF4Linear, torch.nn.Linear]
    assert all(type(m.layers[0].attn.q_proj) is LoRALinear for m in (quantised, plain))


def test_a_tied_output_cannot_have_an_adapter():
    with torch.device("meta"), pytest.raises(ConfigError, match="apply_lora_to_output: False.*tie_word_embeddings"):
        llama3_2.lora_llama3_2_1b(["q_proj"], apply_lora_to_output=True)
    with torch.device("meta"):
        model = llama3_2.lora_llama3_2_1b(["q_proj"], apply_lora_to_output=True, tie_word_embeddings=False)
    assert type(model.output) is LoRALinear
