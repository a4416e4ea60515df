"""Adapters folded into their weights, and what is said of incomplete loads."""

import pytest
import torch
from torch import nn

from torchtune.errors import CheckpointError
from torchtune.models.llama3 import llama3, lora_llama3
from torchtune.modules.peft import (
    DoRALinear,
    LoRALinear,
    get_adapter_params,
    get_merged_lora_ckpt,
    merged_weight,
    validate_missing_and_unexpected_for_lora,
)

SIZES = {"vocab_size": 40, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 64, "max_seq_len": 16}
SIZES |= {"intermediate_dim": 64}
ATTENTION = ["q_proj", "v_proj"]
TOKENS = torch.arange(12).view(1, 12)


def adapted(**settings):
    torch.manual_seed(0)
    model = lora_llama3(ATTENTION, True, True, **SIZES, lora_rank=4, lora_alpha=8, **settings).eval()
    for name, p in get_adapter_params(model).items():
        if "lora_b" in name or "magnitude" in name:
            p.data += torch.randn(p.shape) * 0.1
    return model


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"quantize_base": True}], ids=str)
def test_a_merged_state_dict_is_that_of_a_plain_model(settings):
    model = adapted(**settings)
    state = model.state_dict()
    merged = get_merged_lora_ckpt(state, rank=4, alpha=8)
    assert merged is state
    plain = llama3(**SIZES).eval()
    plain.load_state_dict(merged)
    with torch.no_grad():
        torch.testing.assert_close(plain(TOKENS), model(TOKENS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_sum_is_rounded_once(kind, dtype):
    torch.manual_seed(0)
    layer = kind(32, 16, 4, 6.0).to(dtype)
    nn.init.normal_(layer.lora_b.weight, std=0.3)
    magnitude = layer.magnitude if kind is DoRALinear else None
    found = merged_weight(layer.weight, layer.lora_a.weight, layer.lora_b.weight, 1.5, magnitude)
    exact = layer.weight.double() + 1.5 * layer.lora_b.weight.double() @ layer.lora_a.weight.double()
    if magnitude is not None:
        exact *= (magnitude.double() / exact.norm(dim=1)).unsqueeze(1)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=0.51 * torch.finfo(dtype).eps + 1e-6, atol=1e-6)


def test_a_row_of_zeros_stays_one():
    weight, a, b = torch.zeros(3, 8), torch.randn(2, 8), torch.zeros(3, 2)
    assert not merged_weight(weight, a, b, 1.0, torch.full((3,), torch.finfo(torch.float32).tiny)).any()


def test_what_does_not_fit_is_said():
    state = adapted().state_dict()
    with pytest.raises(CheckpointError, match="layers.0.attn.q_proj.lora_a.weight has rank 4, but rank=8"):
        get_merged_lora_ckpt(dict(state), 8, 8)
    for leaf in ("weight", "lora_b.weight"):
        less = {name: t for name, t in state.items() if name != f"layers.1.attn.v_proj.{leaf}"}
        with pytest.raises(CheckpointError, match=f"layers.1.attn.v_proj cannot .* no layers.1.attn.v_proj.{leaf}"):
            get_merged_lora_ckpt(less, 4, 8)


def loads(model) -> dict[str, list[str]]:
    """What loading the base and the adapters one after the other gives."""
    adapters = set(get_adapter_params(model))
    base, own = ({n: t for n, t in model.state_dict().items() if (n in adapters) == i} for i in (False, True))
    found = {}
    for kind, part in (("base", base), ("lora", own)):
        keys = model.load_state_dict(part, strict=False)
        found |= {f"{kind}_missing": keys.missing_keys, f"{kind}_unexpected": keys.unexpected_keys}
    return found


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"quantize_base": True}], ids=str)
@pytest.mark.parametrize("by_names", [False, True])
def test_complete_loads_are_fine(settings, by_names):
    model = adapted(**settings)
    names = {"state_dict_keys": model.state_dict().keys()}
    modules = {"lora_attn_modules": ATTENTION, "apply_lora_to_mlp": True, "apply_lora_to_output": True}
    validate_missing_and_unexpected_for_lora(**names if by_names else modules, **loads(model))
    base_only = {key: keys for key, keys in loads(model).items() if key.startswith("base")}
    validate_missing_and_unexpected_for_lora(**names if by_names else modules, **base_only)


FAULTS = {
    "base_missing": ("layers.0.attn.q_proj.weight", "base model's checkpoint lacks layers.0.attn.q_proj.weight"),
    "base_unexpected": ("layers.9.x", "base model's checkpoint has what no layer takes: layers.9.x"),
    "lora_missing": ("output.lora_a.weight", "adapters' checkpoint lacks output.lora_a.weight"),
    "lora_unexpected": ("w4.lora_a.weight", "adapters' checkpoint has what no layer takes: w4.lora_a.weight"),
}


@pytest.mark.parametrize("by_names", [False, True])
@pytest.mark.parametrize("kind", FAULTS)
def test_incomplete_loads_are_refused(kind, by_names):
    model, (name, message) = adapted(), FAULTS[kind]
    found = loads(model)
    found[kind] = [*found[kind], name]
    which = [None, None, None, list(model.state_dict())] if by_names else [ATTENTION, True, True]
    with pytest.raises(CheckpointError, match=message):
        validate_missing_and_unexpected_for_lora(*which, **found)


def test_adapters_on_modules_that_should_have_none_are_missed():
    missing = ["layers.0.mlp.w1.lora_a.weight", "layers.0.attn.output_proj.lora_b.weight"]
    for name in missing:
        with pytest.raises(CheckpointError, match=name):
            validate_missing_and_unexpected_for_lora(["q_proj"], False, True, base_missing=[name])
