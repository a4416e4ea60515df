"""Layers with adapters in two processes compute what they do in one."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from two_processes import in_two_processes

from torchtune.models.llama3 import lora_llama3
from torchtune.modules.loss import LinearCrossEntropyLoss
from torchtune.modules.peft import get_adapter_params, get_merged_lora_ckpt
from torchtune.training.activations import recompute_in_backward
from torchtune.training.distributed import World, shard, whole
from torchtune.training.loss import summed_loss

SIZES = {"vocab_size": 41, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 64, "max_seq_len": 16}
METHODS = {
    "lora": {"trainable_modules": ["norm", "tok_embeddings"]},
    "dora": {"use_dora": True},
    "qlora": {"quantize_base": True},
    "qdora": {"quantize_base": True, "use_dora": True},
}


def model_of(method: str) -> nn.Module:
    torch.manual_seed(0)
    adapters = {"lora_rank": 3, "lora_alpha": 6, **METHODS[method]}
    model = lora_llama3(["q_proj", "v_proj"], True, True, **SIZES, intermediate_dim=128, **adapters)
    for name, p in get_adapter_params(model).items():
        if "lora_b" in name:
            p.data.normal_(std=0.1)
    return model


def loss_and_gradients(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    loss = summed_loss(LinearCrossEntropyLoss(), model)(model, {"tokens": tokens, "labels": tokens})
    loss.backward()
    return loss


def _same_gradients(world: World, method: str, recompute: bool) -> None:
    plain = model_of(method)
    model = copy.deepcopy(plain)
    if recompute:
        for layer in model.layers:
            recompute_in_backward(layer)
    shard(model, world)
    assert isinstance(model.layers[0].attn.q_proj.lora_b.weight, DTensor)
    tokens = torch.randint(0, 41, (2, 3, 13))
    loss = loss_and_gradients(model, tokens[world.rank])
    expected = [loss_and_gradients(plain, batch) for batch in tokens]
    torch.testing.assert_close(loss, expected[world.rank])
    for (name, p), q in zip(model.named_parameters(), plain.named_parameters()):
        assert (p.grad is None) == (q[1].grad is None) == (not p.requires_grad), name
        if p.grad is not None:  # FSDP averages
            torch.testing.assert_close(whole(p.grad), q[1].grad / 2, rtol=1e-4, atol=1e-6)
    with torch.no_grad():  # without the loss's own way through the output
        model.skip_output_layer = plain.skip_output_layer = False
        torch.testing.assert_close(model(tokens[0]), plain(tokens[0]))


@pytest.mark.parametrize(("method", "recompute"), [*((m, False) for m in METHODS), ("lora", True), ("qlora", True)])
def test_the_same_loss_and_gradients(method, recompute):
    in_two_processes(functools.partial(_same_gradients, method=method, recompute=recompute))


def _split_state_dicts_merge(world: World) -> None:
    plain = model_of("dora")
    model = copy.deepcopy(plain)
    shard(model, world)
    expected = get_merged_lora_ckpt(plain.state_dict(), 3, 6)
    for name, tensor in get_merged_lora_ckpt(model.state_dict(), 3, 6, use_distributed_barriers=True).items():
        torch.testing.assert_close(whole(tensor), expected.pop(name))
    assert not expected


def test_split_state_dicts_merge():
    in_two_processes(_split_state_dicts_merge)
