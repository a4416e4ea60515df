"""Optimizers as a recipe sees them: stepped in backward, gradients measured and scaled, a loss scale that moves."""

import pytest
import torch
from torch import nn

from torchtune.training.optim import InBackward, LossScaler, gradient_norm, hyperparameters, scale_gradients


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


def _make(params):
    return torch.optim.AdamW(params, lr=0.1)


def test_in_backward_takes_the_same_steps_and_keeps_no_gradient():
    ours, plain = _net(), _net()
    inside, outside = InBackward(_make, ours.parameters()), _make(plain.parameters())
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)) for o in (inside, outside)]
    for _ in range(3):
        ours(torch.ones(4)).backward()
        assert all(p.grad is None for p in ours.parameters())
        plain(torch.ones(4)).backward()
        for optimizer in (inside, outside):
            optimizer.step()
            optimizer.zero_grad()
        for schedule in schedules:
            schedule.step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), plain.parameters()))
    assert hyperparameters(inside) == hyperparameters(outside)
    assert len(inside.state) == 4 and all(s["step"] == 3 for s in inside.state.values())


def test_norm_and_scale():
    net = _net()
    assert gradient_norm(net.parameters()) == 0
    net(torch.ones(4)).backward()
    every = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(gradient_norm(net.parameters()), every.norm())
    scale_gradients(net.parameters(), 0.5)
    torch.testing.assert_close(gradient_norm(net.parameters()), every.norm() / 2)


def test_the_scale_grows_after_good_steps_and_halves_after_a_bad_one():
    scaler = LossScaler(enabled=True, scale=8.0, growth_interval=2)
    seen = []
    for finite in (True, True, False, True, True):
        scaler.update(finite)
        seen.append(scaler.scale)
    assert seen == [8, 16, 8, 8, 16]
    other = LossScaler(enabled=True)
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict() == {"scale": 16.0, "good_steps": 0}


def test_a_scale_that_cannot_fall_further():
    scaler = LossScaler(enabled=True, scale=2.0**-15)
    assert not scaler.exhausted
    scaler.update(finite=False)
    scaler.update(finite=False)
    assert scaler.exhausted


def test_a_scaler_that_is_off():
    scaler = LossScaler(enabled=False)
    scaler.update(finite=False)
    assert scaler.scale == 1.0 and not scaler.exhausted


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_shows(bad):
    net = _net()
    net(torch.ones(4)).backward()
    next(net.parameters()).grad[0, 0] = bad
    assert not gradient_norm(net.parameters()).isfinite()
