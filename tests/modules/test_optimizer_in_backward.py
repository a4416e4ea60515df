"""Steps taken during backward equal those of the plain optimizer."""

import copy

import pytest
import torch
from torch import nn

from torchtune.modules.optim import OptimizerInBackward


def pair():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    return model, copy.deepcopy(model)


def losses(model, optimizer, schedule=None, steps=5):
    out, rng = [], torch.Generator().manual_seed(1)
    for _ in range(steps):
        loss = model(torch.randn(3, 4, generator=rng)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule:
            schedule.step()
        out.append(loss.item())
    return out


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.Adagrad, {"lr": 0.1}),
    ],
)
@pytest.mark.parametrize("scheduled", [False, True])
def test_the_same_numbers_as_the_plain_optimizer(cls, kwargs, scheduled):
    ours, plain = pair()
    in_backward, reference = OptimizerInBackward(ours.parameters(), cls, **kwargs), cls(plain.parameters(), **kwargs)
    make = torch.optim.lr_scheduler.LambdaLR
    schedules = [make(o, lambda step: 0.5**step) if scheduled else None for o in (in_backward, reference)]
    assert losses(ours, in_backward, schedules[0]) == losses(plain, reference, schedules[1])
    assert in_backward.param_groups[0]["lr"] == reference.param_groups[0]["lr"]


def test_gradients_are_gone_after_backward():
    model, _ = pair()
    OptimizerInBackward(model.parameters(), torch.optim.SGD, lr=0.1)
    model(torch.randn(3, 4)).sum().backward()
    assert all(p.grad is None for p in model.parameters())


def test_state_goes_to_and_from_a_plain_optimizer():
    ours, plain = pair()
    in_backward, reference = (
        OptimizerInBackward(ours.parameters(), torch.optim.AdamW, lr=0.1),
        torch.optim.AdamW(plain.parameters(), lr=0.1),
    )
    losses(ours, in_backward)
    losses(plain, reference)
    torch.testing.assert_close(in_backward.state_dict()["state"], reference.state_dict()["state"], rtol=0, atol=0)
    assert in_backward.state_dict()["param_groups"] == reference.state_dict()["param_groups"]

    resumed = copy.deepcopy(plain)
    fresh = OptimizerInBackward(resumed.parameters(), torch.optim.AdamW, lr=9.0)
    fresh.load_state_dict(copy.deepcopy(reference.state_dict()))
    assert losses(resumed, fresh) == losses(ours, in_backward) == losses(plain, reference)


def test_frozen_parameters_are_left_alone():
    model, _ = pair()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    losses(model, OptimizerInBackward(model.parameters(), torch.optim.AdamW, lr=0.1))
    assert torch.equal(model[0].weight, before)


def test_a_closure_is_called_with_gradients_on():
    model, _ = pair()
    optimizer, before = OptimizerInBackward(model.parameters(), torch.optim.SGD, lr=0.1), model[0].weight.clone()

    def closure():
        loss = model(torch.ones(1, 4)).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).requires_grad and not torch.equal(model[0].weight, before)
