import copy

import pytest
import torch
from torch import nn

from torchtune.errors import CheckpointError, ConfigError
from torchtune.training.lr_schedulers import get_cosine_schedule_with_warmup, get_lr
from torchtune.training.memory import (
    OptimizerInBackwardWrapper,
    cleanup_before_training,
    create_optim_in_bwd_wrapper,
    get_memory_stats,
    log_memory_stats,
    register_optim_in_bwd_hooks,
    set_activation_checkpointing,
)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.calls = 0

    def forward(self, x, *, scale=1.0):
        self.calls += 1
        return x + self.second(torch.tanh(self.first(x))) * scale


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.output = nn.Linear(8, 1)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, scale=0.5)
        return self.output(x)


def _grads(model, x):
    model.zero_grad()
    model(x).pow(2).sum().backward()
    return {name: param.grad.clone() for name, param in model.named_parameters()}


def _calls(model):
    return [layer.calls for layer in model.layers]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


@pytest.mark.parametrize(
    "policy", [{Block}, lambda module, recurse, nonwrapped_numel: recurse or isinstance(module, Block)]
)
def test_recomputing_changes_neither_gradients_nor_names(model, policy):
    x, names = torch.randn(2, 8), list(model.state_dict())
    expected = _grads(copy.deepcopy(model), x)
    set_activation_checkpointing(model, policy)
    actual = _grads(model, x)
    assert _calls(model) == [2, 2, 2] and list(model.state_dict()) == names
    for name, grad in expected.items():
        torch.testing.assert_close(actual[name], grad, rtol=0, atol=0)


def test_a_policy_can_keep_a_module_closed(model):
    set_activation_checkpointing(
        model, lambda module, recurse, nonwrapped_numel: not recurse and nonwrapped_numel < 100
    )
    _grads(model, torch.randn(2, 8))
    assert _calls(model) == [1, 1, 1]


def test_a_copy_of_a_recomputing_model_is_on_its_own(model):
    set_activation_checkpointing(model, {Block})
    copied = copy.deepcopy(model)
    _grads(copied, torch.randn(2, 8))
    assert _calls(copied) == [2, 2, 2] and _calls(model) == [0, 0, 0]


def test_an_argument_that_checkpoint_does_not_know_is_an_error(model):
    set_activation_checkpointing(model, {Block}, use_rentrant=False)
    with pytest.raises(TypeError, match="use_rentrant"):
        model(torch.randn(2, 8))


def test_memory_of_a_cpu_is_what_the_process_held():
    stats = get_memory_stats(torch.device("cpu"))
    assert 0.05 < stats["peak_memory_resident"] < 500
    held = torch.ones(200 * 2**20 // 4)
    grown = get_memory_stats(torch.device("cpu"))["peak_memory_resident"]
    assert held[0] == 1 and grown >= stats["peak_memory_resident"]


def test_the_stats_are_logged_with_the_documented_lines(caplog):
    caplog.set_level("INFO", "torchtune")
    log_memory_stats({"peak_memory_active": 6.2, "peak_memory_alloc": 6.206, "peak_memory_reserved": 6.27})
    log_memory_stats(get_memory_stats(torch.device("cpu")), message="After:")
    lines = caplog.messages[0].splitlines()
    assert lines[0] == "Memory stats after model init:"
    assert [line.split("peak")[1] for line in lines[1:]] == [
        " memory allocation: 6.21 GiB",
        " memory reserved: 6.27 GiB",
        " memory active: 6.20 GiB",
    ]
    assert caplog.messages[1].startswith("After:\n\t") and "resident" in caplog.messages[1]


def test_cleanup_works_without_an_accelerator():
    cleanup_before_training()


def test_stepping_in_backward_equals_stepping_after_it(model):
    x, plain = torch.randn(4, 8), copy.deepcopy(model)
    frozen = model.layers[0].first.weight.requires_grad_(False)
    plain.layers[0].first.weight.requires_grad_(False)
    optimizers = {p: torch.optim.AdamW([p], lr=0.1) for p in model.parameters() if p.requires_grad}
    register_optim_in_bwd_hooks(model, optimizers)
    wrapper = create_optim_in_bwd_wrapper(model, optimizers)
    together = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model(x).pow(2).sum().backward()
        together.zero_grad()
        plain(x).pow(2).sum().backward()
        together.step()
    assert all(param.grad is None for param in model.parameters())
    assert "layers.0.first.weight" not in wrapper.optim_map and len(wrapper.optim_map) == 13
    torch.testing.assert_close(model.state_dict(), plain.state_dict())
    assert torch.equal(frozen, plain.layers[0].first.weight)


def _wrapper(names=("a", "b"), lr=1.0):
    return OptimizerInBackwardWrapper({n: torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=lr) for n in names})


def test_the_wrappers_state_comes_back():
    source, target = _wrapper(lr=0.5), _wrapper()
    target.load_state_dict(source.state_dict())
    assert target.get_optim_key("lr") == 0.5
    with pytest.raises(CheckpointError, match=r"missing \['c'\], unexpected \['b'\]"):
        _wrapper(("a", "c")).load_state_dict(source.state_dict())


def test_one_schedule_governs_all_optimizers():
    wrapper = _wrapper()
    with pytest.raises(ConfigError, match="set_lr_scheduler"):
        wrapper.step_lr_scheduler()
    wrapper.set_lr_scheduler(get_cosine_schedule_with_warmup(wrapper.optim_map["a"], 2, 10))
    next(iter(wrapper.optim_map.values())).step()
    wrapper.step_lr_scheduler()
    assert wrapper.get_last_lr() == get_lr(wrapper) == 0.5
