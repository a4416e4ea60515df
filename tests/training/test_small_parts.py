import os

import pytest
import torch
from torch import nn

from torchtune.training.grads import scale_grads, scale_grads_
from torchtune.training.model_util import disable_dropout, set_torch_num_threads, validate_no_params_on_meta_device
from torchtune.training.pooling import get_unmasked_sequence_lengths
from torchtune.training.quantization import get_quantizer_mode


def test_the_last_real_token_of_each_row():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 1]], dtype=torch.bool)
    assert get_unmasked_sequence_lengths(mask).tolist() == [1, 0, 3, 2, 2]


def _with_grads():
    model = nn.ModuleList(
        [nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.bfloat16), nn.Linear(2, 2).requires_grad_(False)]
    )
    for param in model.parameters():
        param.grad = torch.full_like(param, 4.0) if param.requires_grad else None
    return model


@pytest.mark.parametrize("foreach", [None, True, False])
def test_gradients_are_scaled_in_place(foreach):
    model = _with_grads()
    before = [param.grad for param in model.parameters()]
    scale_grads_(model.parameters(), torch.tensor(0.25), foreach)
    scale_grads(model[0], torch.tensor(3.0))
    scale_grads_(model[1].weight, torch.tensor(2.0))
    after = [param.grad for param in model.parameters()]
    assert all(a is b for a, b in zip(after, before))
    assert [None if g is None else g.unique().item() for g in after] == [3.0, 3.0, 2.0, 1.0, None, None]
    assert after[2].dtype is torch.bfloat16


def test_every_dropout_is_switched_off_and_named(caplog):
    model = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Dropout1d(0.2)), nn.Dropout(0.0))
    model.add_module("attn", nn.Identity())
    model.attn.attn_dropout = 0.3
    disable_dropout(model)
    assert model[0].p == model[1][0].p == model.attn.attn_dropout == 0.0
    assert [message.split(" was")[0] for message in caplog.messages] == [
        f"Dropout of {n}" for n in ("0", "1.0", "attn")
    ]


def test_what_was_never_filled_is_named():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1, device="meta"))
    with pytest.raises(RuntimeError, match="1.weight is still on the meta device"):
        validate_no_params_on_meta_device(model)
    validate_no_params_on_meta_device(model[0])
    with pytest.raises(RuntimeError, match="running_mean"):
        validate_no_params_on_meta_device(nn.BatchNorm1d(1, affine=False, device="meta"))


@pytest.fixture
def threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    yield torch.get_num_threads
    torch.set_num_threads(before)


def test_processes_share_the_cores(threads, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    set_torch_num_threads()
    assert threads() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    set_torch_num_threads()
    assert threads() == 1


def test_a_single_process_keeps_what_the_user_set(threads, monkeypatch):
    before = threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(before))
    set_torch_num_threads()
    assert threads() == before
    monkeypatch.delenv("OMP_NUM_THREADS")
    set_torch_num_threads()
    assert threads() == 8


def test_quantizers_are_known_by_name():
    kind = type("Int8DynActInt4WeightQATQuantizer", (), {})
    assert get_quantizer_mode(kind()) == "8da4w-qat" and get_quantizer_mode(None) is None
    assert get_quantizer_mode(object()) is None
