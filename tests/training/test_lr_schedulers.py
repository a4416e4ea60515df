import pytest
import torch
from torch import nn
from transformers import optimization as oracle

from torchtune.errors import ConfigError
from torchtune.training import lr_schedulers
from torchtune.training.lr_schedulers import get_cosine_schedule_with_warmup, get_lr
from torchtune.training.memory import OptimizerInBackwardWrapper


def _optimizer(lr=0.3):
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr)


def _rates(make, steps, **kwargs):
    optimizer = _optimizer()
    scheduler, rates = make(optimizer, **kwargs), []
    for _ in range(steps):
        rates.append(get_lr(optimizer))
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("num_warmup_steps", [0, 3, 12])
def test_the_rates_are_transformers(name, num_warmup_steps):
    function = f"get_{name}_schedule_with_warmup"
    arguments = {"num_warmup_steps": num_warmup_steps}
    total = {} if name == "constant" else {"num_training_steps": 10}
    expected = _rates(getattr(oracle, function), 14, **arguments, **total)
    assert _rates(getattr(lr_schedulers, function), 14, **arguments, **total) == pytest.approx(expected)


def test_waves_and_going_on_from_a_step():
    kwargs = {"num_warmup_steps": 2, "num_training_steps": 10, "num_cycles": 1.5}
    straight = _rates(get_cosine_schedule_with_warmup, 10, **kwargs)
    assert straight == pytest.approx(_rates(oracle.get_cosine_schedule_with_warmup, 10, **kwargs))
    optimizer = _optimizer()
    optimizer.param_groups[0]["initial_lr"] = 0.3
    get_cosine_schedule_with_warmup(optimizer, **kwargs, last_epoch=4)
    assert get_lr(optimizer) == pytest.approx(straight[5])


def test_different_rates_are_not_one_rate():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.2}], lr=1.0)
    with pytest.raises(ConfigError, match=r"\[0.1, 0.2\]"):
        get_lr(optimizer)


def test_the_rate_of_many_optimizers():
    assert get_lr(OptimizerInBackwardWrapper({"a": _optimizer(0.2), "b": _optimizer(0.2)})) == 0.2
    with pytest.raises(ConfigError):
        get_lr(OptimizerInBackwardWrapper({"a": _optimizer(0.2), "b": _optimizer(0.3)}))
