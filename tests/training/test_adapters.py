"""How adapters start, and how they and their base become weights."""

import copy

import pytest
import torch

from torchtune.models.llama3_2 import llama3_2, lora_llama3_2
from torchtune.training.adapters import BaseWeights, merged, start_adapters, whole_adapters
from torchtune.training.distributed import World
from torchtune.training.model import base_tensors, load_model

ALONE = World(0, 1, torch.device("cpu"))
SIZES = {"vocab_size": 40, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 64, "max_seq_len": 16}
SIZES |= {"intermediate_dim": 128}
LORA = {"lora_attn_modules": ["q_proj", "v_proj"], "apply_lora_to_mlp": True, "lora_rank": 4, "lora_alpha": 8}
METHODS = [
    {},
    {"use_rslora": True},
    {"use_dora": True},
    {"quantize_base": True},
    {"quantize_base": True, "use_dora": True},
]


class Source:
    """A checkpointer over tensors in memory."""

    def __init__(self, tensors):
        self.tensors = tensors

    def weights(self, native):
        assert native.keys() == self.tensors.keys()
        return iter(self.tensors.items())


def plain_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: tensor * 3 for name, tensor in llama3_2(**SIZES).state_dict().items()}


def adapted(weights, seed=1, **options):
    base = BaseWeights(Source(weights))
    model = load_model(lambda: lora_llama3_2(**LORA, **SIZES, **options), base.weights, ALONE, dtype=torch.float32)
    start_adapters(model, seed)
    return model, base


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(12)[None])


def test_the_base_is_asked_for_without_adapters():
    with torch.device("meta"):
        plain, model = llama3_2(**SIZES), lora_llama3_2(**LORA, **SIZES, quantize_base=True, use_dora=True)
    wanted = {name: tuple(tensor.shape) for name, tensor in plain.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in base_tensors(model).items()} == wanted


def test_a_start_depends_on_the_seed_alone():
    weights = plain_weights()
    torch.manual_seed(5)
    one, _ = adapted(weights)
    torch.manual_seed(6)
    two, _ = adapted(weights)
    other, _ = adapted(weights, seed=2)
    first, second, third = (whole_adapters(model) for model in (one, two, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)
    bound = 1 / 64**0.5
    a = first["layers.0.attn.q_proj.lora_a.weight"]
    assert a.abs().max() <= bound and a.abs().max() > 0.9 * bound  # as nn.Linear would draw it


@pytest.mark.parametrize("options", METHODS, ids=str)
def test_starts_as_its_base_and_merges_to_what_it_computes(options):
    weights = plain_weights()
    model, base = adapted(weights, **options)
    plain = llama3_2(**SIZES)
    plain.load_state_dict(dict(merged(model, base.again(), whole_adapters(model))))
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=1e-4)
    if not options.keys() & {"quantize_base", "use_dora"}:
        assert all(torch.equal(plain.state_dict()[name], weights[name]) for name in weights)
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2) if "lora" in name else p.data.mul_(1.3)
    moved = logits(model)
    plain.load_state_dict(dict(merged(model, base.again(), whole_adapters(model))))
    torch.testing.assert_close(moved, logits(plain), rtol=1e-4, atol=5e-3)  # of about 100


def test_what_is_merged_keeps_the_dtype_of_the_base():
    weights = {name: tensor.bfloat16() for name, tensor in plain_weights().items()}
    model, base = adapted(weights, trainable_modules=["norm"])
    found = dict(merged(model, base.again(), whole_adapters(model)))
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def fingerprint(weights) -> str:
    base = BaseWeights(Source(weights))
    list(base.weights(weights))
    return base.fingerprint


def test_a_fingerprint_tells_weights_from_others_in_any_form():
    weights = {name: tensor.bfloat16() for name, tensor in plain_weights().items()}
    shuffled = {name: weights[name].float() for name in reversed(weights)}
    assert fingerprint(weights) == fingerprint(shuffled)
    changed = copy.deepcopy(weights)
    changed["layers.1.mlp.w2.weight"] += 0.01
    assert fingerprint(weights) != fingerprint(changed)
    renamed = {name.replace("layers.0", "layers.2"): tensor for name, tensor in weights.items()}
    assert fingerprint(weights) != fingerprint(renamed)
