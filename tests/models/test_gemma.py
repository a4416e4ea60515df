"""Gemma 1, 2 and 3: what is exact in bf16, names and shapes, vocabularies that grow, and configs that are refused."""

import copy
import hashlib
import importlib
import json

import pytest
import torch
from family_cases.gemma2 import CASES as GEMMA2_CASES
from family_cases.gemma3 import CASES as GEMMA3_CASES
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm, Gemma3TextScaledWordEmbedding

from torchtune.errors import CheckpointError
from torchtune.models import family_for_model_type, family_of
from torchtune.models.gemma import gemma, lora_gemma
from torchtune.models.gemma.gemma_norm_embedding import GemmaNormEmbeddings
from torchtune.models.gemma.rms_norm import GemmaRMSNorm
from torchtune.models.gemma2 import gemma2
from torchtune.models.gemma3 import qlora_gemma3_1b
from torchtune.modules import TiedLinear
from torchtune.modules.embedding_utils import resize_token_embeddings
from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.modules.peft import LoRALinear

SIZES = {
    "vocab_size": 97,
    "num_layers": 2,
    "num_heads": 4,
    "head_dim": 32,
    "num_kv_heads": 1,
    "embed_dim": 64,
    "intermediate_dim": 128,
    "max_seq_len": 32,
}
# builder: (parameters, tensors in the state dict, digest of their names and shapes), as in torchtune 0.6.1; but its
# Gemma 2 calls the last norm norm.rms_norm. Those with adapters have them on q_proj and v_proj.
CONTRACTS = {
    "gemma.gemma_2b": (2_506_172_416, 164, "53842b675241"),
    "gemma.gemma_7b": (8_537_680_896, 254, "a04909024e67"),
    "gemma.lora_gemma_2b": (2_507_094_016, 236, "6a6bca8f4cd4"),
    "gemma.lora_gemma_7b": (8_540_892_160, 366, "aa2ec63cfa69"),
    "gemma2.gemma2_2b": (2_614_341_888, 288, "3091abd63dc5"),
    "gemma2.gemma2_9b": (9_241_705_984, 464, "369a5db8d2a5"),
    "gemma2.gemma2_27b": (27_227_128_320, 508, "ae2719736573"),
    "gemma2.lora_gemma2_2b": (2_615_939_328, 392, "7e6bf67f54c8"),
    "gemma2.lora_gemma2_9b": (9_246_178_816, 632, "f3a0b9ee0544"),
    "gemma2.lora_gemma2_27b": (27_232_780_800, 692, "178c696d6b68"),
}


@pytest.mark.parametrize("builder", CONTRACTS)
def test_names_and_shapes_are_torchtunes(builder):
    family, name = builder.split(".")
    adapters = {"lora_attn_modules": ["q_proj", "v_proj"]} if "lora" in name else {}
    with torch.device("meta"):
        model = getattr(importlib.import_module(f"torchtune.models.{family}"), name)(**adapters)
    last_norm = "norm.rms_norm.scale" if family == "gemma2" else "norm.scale"
    names = {"norm.scale": last_norm}
    shapes = sorted((names.get(name, name), list(tensor.shape)) for name, tensor in model.state_dict().items())
    digest = hashlib.sha1(json.dumps(shapes).encode()).hexdigest()[:12]
    assert (sum(p.numel() for p in model.parameters()), len(shapes), digest) == CONTRACTS[builder]


def test_the_norm_keeps_the_last_bits_of_its_scale_in_bf16():
    torch.manual_seed(0)
    ours, theirs = GemmaRMSNorm(64).bfloat16(), Gemma3RMSNorm(64).bfloat16()
    assert torch.equal(ours.scale, theirs.weight)
    theirs.weight.data.normal_()
    ours.scale.data.copy_(theirs.weight)
    x = torch.randn(5, 7, 64, dtype=torch.bfloat16)
    found, expected = (copy.deepcopy(x).requires_grad_() for _ in range(2))
    ours(found).square().sum().backward()
    theirs(expected).square().sum().backward()
    assert torch.equal(ours(x), theirs(x))
    torch.testing.assert_close(found.grad, expected.grad)
    torch.testing.assert_close(ours.scale.grad, theirs.weight.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_factor_of_the_embedding_is_rounded_to_its_dtype(dtype):
    ours, theirs = GemmaNormEmbeddings(97, 3072), Gemma3TextScaledWordEmbedding(97, 3072, 0, embed_scale=3072**0.5)
    theirs.weight = ours.weight
    tokens = torch.randint(0, 97, (2, 9))
    assert torch.equal(ours.to(dtype)(tokens), theirs.to(dtype)(tokens))


def test_new_words_begin_as_the_mean_of_the_old_ones():
    model = gemma(**SIZES)
    old = model.tok_embeddings.weight.detach().clone()
    resize_token_embeddings(model, 99)
    logits = model(torch.tensor([[1, 98]]))
    assert isinstance(model.output, TiedLinear) and logits.shape == (1, 2, 99)
    torch.testing.assert_close(model.tok_embeddings(torch.tensor([98]))[0], old.mean(0) * 8)
    assert set(model.state_dict()) == set(gemma(**SIZES).state_dict())


def test_adapters_over_4_bits():
    def build(quantize_base):
        torch.manual_seed(0)
        return lora_gemma(["q_proj"], apply_lora_to_mlp=True, quantize_base=quantize_base, **SIZES)

    model, exact = build(True), build(False)
    exact.load_state_dict(model.state_dict())
    tokens = torch.randint(0, 97, (1, 9))
    torch.testing.assert_close(model(tokens), exact(tokens))
    assert isinstance(model.tok_embeddings, GemmaNormEmbeddings) and model.is_tied
    with torch.device("meta"):
        layer = qlora_gemma3_1b(["q_proj"], apply_lora_to_mlp=True).layers[1]
    assert [type(m) for m in (layer.attn.q_proj, layer.attn.k_proj)] == [LoRALinear, FrozenNF4Linear]


def test_logits_stay_within_the_cap_however_large_the_weights():
    model = gemma2(**SIZES)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=3)
    logits = model(torch.randint(0, 97, (1, 32)))
    assert 29 < logits.abs().max() <= 30


GEMMA2, GEMMA3 = (cases["27b"].hf_config().to_dict() for cases in (GEMMA2_CASES, GEMMA3_CASES))


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (GEMMA2, {"attention_bias": True}, "attention_bias"),
        (GEMMA2, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA2, {"sliding_window_size": 7}, "two sizes of the window"),
        (GEMMA2, {"layer_types": ["chunked_attention"] * 3}, "chunked_attention"),
        (GEMMA3, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA3, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        (GEMMA3, {"layer_types": ["linear_attention"] * 7}, "linear_attention"),
        (GEMMA3, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_theta.*sliding_attention"),
    ],
)
def test_what_gemma_does_not_have_is_refused_by_name(config, change, message):
    with pytest.raises(CheckpointError, match=message):
        family_of(config).build(config | change)


@pytest.mark.parametrize(("name", "model_type"), [("GEMMA", "gemma"), ("GEMMA2", "gemma2"), ("GEMMA3", "gemma3_text")])
def test_config_types_name_the_families(name, model_type):
    assert family_for_model_type(name) is family_of({"model_type": model_type})
