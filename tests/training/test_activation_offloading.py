import contextlib
import weakref

import pytest
import torch
from torch import nn

from torchtune.training import activation_offloading
from torchtune.training.activation_offloading import NoOpManager, OffloadActivations, get_act_offloading_ctx_manager

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Model(nn.Module):
    def __init__(self, layers=4, width=256):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(layers))
        self.output = nn.Linear(width, 8)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.output(x)


def _grads(model, x, context):
    model.zero_grad()
    with context:
        loss = model(x).pow(2).sum()
    loss.backward()
    return [param.grad.clone() for param in model.parameters()]


def test_on_a_cpu_it_says_that_it_has_no_effect(caplog):
    caplog.set_level("INFO", "torchtune")
    context = get_act_offloading_ctx_manager(Model(), True)
    assert isinstance(context, contextlib.nullcontext) and "no effect" in caplog.messages[0]


def test_it_is_off_without_a_word(caplog):
    caplog.set_level("INFO", "torchtune")
    assert isinstance(get_act_offloading_ctx_manager(Model(), False), contextlib.nullcontext)
    assert caplog.messages == []


def test_tensors_on_the_cpu_stay_where_they_are():
    torch.manual_seed(0)
    model, x = Model(), torch.randn(3, 256)
    expected = _grads(model, x, contextlib.nullcontext())
    actual = _grads(model, x, OffloadActivations())
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))


@pytest.fixture
def offloaded(monkeypatch):
    """The tensors that leave, with those of the CPU taken for an accelerator's."""
    made = []

    class Recorded(activation_offloading._Offloaded):
        def __init__(self, on_cpu, *args):
            super().__init__(on_cpu, *args)
            made.append(weakref.ref(on_cpu))

    monkeypatch.setattr(activation_offloading, "_is_on_cpu", lambda tensor: False)
    monkeypatch.setattr(activation_offloading, "_Offloaded", Recorded)
    return made


def _offload(**kwargs):
    return OffloadActivations(use_pin_memory=False, use_streams=False, **kwargs)


def test_activations_leave_and_come_back_the_same(offloaded):
    torch.manual_seed(0)
    model, x = Model(), torch.randn(3, 256)
    expected = _grads(model, x, contextlib.nullcontext())
    actual = _grads(model, x, _offload())
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))
    # Per layer what the linear layer and GELU save, then the input of the projection; never a weight.
    assert len(offloaded) == 2 * 4 + 1
    assert [ref() for ref in offloaded] == [None] * len(offloaded)


def test_small_tensors_stay(offloaded):
    _grads(Model(), torch.randn(3, 256), _offload(min_offload_size=10**6))
    assert offloaded == []


def test_a_part_can_be_left_in_place(offloaded):
    with _offload():
        x = torch.randn(3, 256, requires_grad=True) * 2
        with NoOpManager():
            y = x.exp()
        assert offloaded == []
        z = y.exp()
        assert len(offloaded) == 1
    z.sum().backward()


def test_what_the_output_projection_saves_stays(offloaded):
    model = Model()
    activation_offloading._keep_in_place(model.output)
    _grads(model, torch.randn(3, 256), _offload())
    assert len(offloaded) == 2 * 4


def test_an_error_in_the_output_projection_leaves_offloading_as_it_was(offloaded):
    model = Model()
    activation_offloading._keep_in_place(model.output)
    with _offload():
        with pytest.raises(RuntimeError):
            model.output(torch.randn(3, 7))
        torch.randn(3, 256, requires_grad=True).exp()
    assert len(offloaded) == 1


@gpu
@pytest.mark.parametrize("use_streams", [True, False])
@pytest.mark.parametrize("stash", [0, 1, 5])
def test_on_a_gpu_the_gradients_stay_and_memory_falls(use_streams, stash):
    torch.manual_seed(0)
    model, x = Model(layers=16, width=2048).cuda(), torch.randn(4096, 2048, device="cuda")
    peaks, grads = [], []
    for context in (contextlib.nullcontext(), OffloadActivations(use_streams=use_streams, max_fwd_stash_size=stash)):
        _grads(model, x, contextlib.nullcontext())
        torch.cuda.reset_peak_memory_stats()
        grads.append(_grads(model, x, context))
        peaks.append(torch.cuda.max_memory_allocated())
    assert all(torch.equal(a, b) for a, b in zip(*grads)) and peaks[1] < 0.7 * peaks[0]
