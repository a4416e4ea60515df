import pytest
import torch
from torch import nn

from torchtune.models.llama2 import llama2
from torchtune.modules.loss import LinearCrossEntropyLoss
from torchtune.training.activations import apply_selective_activation_checkpointing
from torchtune.training.compile import compile_loss, compile_model


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch):
    monkeypatch.setenv("TORCH_COMPILE_BACKEND", "eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_each_layer_is_compiled_and_no_name_changes(caplog):
    caplog.set_level("INFO", "torchtune")
    torch.manual_seed(0)
    model = llama2(
        vocab_size=32, num_layers=2, num_heads=2, num_kv_heads=2, embed_dim=16, intermediate_dim=32, max_seq_len=16
    )
    names, tokens = list(model.state_dict()), torch.arange(8)[None]
    expected = model(tokens)
    compile_model(model)
    compiled = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
    assert compiled == {"layers.0", "layers.1"} and list(model.state_dict()) == names
    torch.testing.assert_close(model(tokens), expected)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("mode", [("full", None), ("selective", "op")])
def test_layers_that_are_computed_again_are_compiled_too(mode):
    model = llama2(
        vocab_size=32, num_layers=2, num_heads=2, num_kv_heads=2, embed_dim=16, intermediate_dim=32, max_seq_len=16
    )
    apply_selective_activation_checkpointing(model, *mode)
    compile_model(model)
    torch._dynamo.utils.counters.clear()
    model(torch.arange(8)[None]).sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] and not torch._dynamo.utils.counters["graph_break"]


def test_a_model_without_layers_is_compiled_whole(caplog):
    caplog.set_level("INFO", "torchtune")
    model = nn.Linear(2, 2)
    compile_model(model, verbose=False)
    assert model._compiled_call_impl is not None and caplog.messages == []


def test_a_loss_is_compiled_in_place():
    loss = nn.CrossEntropyLoss()
    assert compile_loss(loss, verbose=False) is loss and loss._compiled_call_impl is not None


def test_a_loss_may_say_what_to_compile():
    class Loss(nn.Module):
        def apply_compile_strategy(self, **kwargs):
            self.got = kwargs

    loss = Loss()
    assert compile_loss(loss).got == {"backend": "eager"}
    assert isinstance(compile_loss(LinearCrossEntropyLoss()), LinearCrossEntropyLoss)
