"""torchtune's own functions for joining, sharding and gathering: one process against two, and what they refuse."""

from contextlib import contextmanager
from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from torchtune import training
from torchtune.errors import CheckpointError, ConfigError
from torchtune.training._distributed import recursive_reshard

CPU = torch.device("cpu")


class Stack(nn.Module):
    """Odd sizes, so that two processes hold unequal pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(2))
        self.output = nn.Linear(5, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.output(x)


def full_state():
    torch.manual_seed(0)
    return Stack().state_dict()


def make(full=None, **loading):
    with torch.device("meta"):
        model = Stack()
    if dist.is_initialized():
        conditions = [partial(training.get_shard_conditions, names_to_match=["output"])]
        training.shard_model(model, conditions, cpu_offload=False, reshard_after_forward=False)
    full = full_state() if full is None else full
    fitted = training.load_from_full_model_state_dict(model, full, CPU, strict=True, **loading)
    assert not fitted.missing_keys and not fitted.unexpected_keys
    assert all(tensor is None for tensor in full.values())  # the names stay: recipes ask for them later
    training.validate_no_params_on_meta_device(model)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def step(model, optimizer, seed):
    rank, size = (dist.get_rank(), 2) if dist.is_initialized() else (0, 1)
    torch.manual_seed(seed)
    rows = torch.randn(4, 5).tensor_split(size)[rank]
    (model(rows).square().sum() * size / 4).backward()
    optimizer.step()
    optimizer.zero_grad()


def states(model, optimizer, main):
    return (
        training.gather_cpu_state_dict(model, main, CPU),
        training.get_full_optimizer_state_dict(model, optimizer, main, CPU),
    )


def trained_twice(main=True, **loading):
    """States after one step; then a fresh model and optimizer take them, and go on for one more."""
    model, optimizer = make()
    step(model, optimizer, seed=1)
    kept = [states(model, optimizer, main)]
    first = deepcopy(kept[0])
    if dist.is_initialized():
        dist.broadcast_object_list(kept)
    weights, moments = kept[0]
    model, optimizer = make({} if loading and not main else dict(weights), **loading)
    training.load_from_full_optimizer_state_dict(model, optimizer, moments, CPU)
    step(model, optimizer, seed=2)
    return first, states(model, optimizer, main)


def in_a_process(rank, folder):
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    main = rank == 0
    results = {"each": trained_twice(main), "first_only": trained_twice(main, use_distributed_state_dict=True)}
    if not main:
        assert results["each"] == (({}, {}), ({}, {}))
    model, _ = make()
    sharded = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
    weight = model.layers[0].weight
    assert isinstance(weight, DTensor) and weight.to_local().shape[0] == (3, 2)[rank]
    padded = 3 * 5 * 4  # bytes; a view would keep the whole tensor's 100
    assert weight.to_local().untyped_storage().nbytes() == padded
    model(torch.ones(1, 5))
    before = type(model.layers[0].weight)
    recursive_reshard(model)
    results["kinds"] = (sharded, before is DTensor, isinstance(model.layers[0].weight, DTensor))
    if main:
        torch.save(results, f"{folder}/results")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(in_a_process, (str(folder),), nprocs=2)
    return torch.load(folder / "results", weights_only=True)


def assert_same(mine, expected, **tolerance):
    (weights, moments), (expected_weights, expected_moments) = mine, expected
    torch.testing.assert_close(weights, expected_weights, **tolerance)
    torch.testing.assert_close(moments["state"], expected_moments["state"], **tolerance)
    assert moments["param_groups"] == expected_moments["param_groups"]


@pytest.mark.parametrize("way", ["each", "first_only"])
def test_two_processes_train_save_and_go_on_as_one_does(two, way):
    for mine, one in zip(two[way], trained_twice(), strict=True):
        assert_same(mine, one, rtol=1e-5, atol=1e-6)
        assert mine[1]["state"].keys() == dict(Stack().named_parameters()).keys()


def test_chosen_modules_are_units_and_are_given_up_on_request(two):
    assert two["kinds"] == (["", "layers.0", "layers.1", "output"], False, True)


def test_going_on_from_a_saved_state_is_going_on():
    model, optimizer = make()
    for seed in (1, 2):
        step(model, optimizer, seed)
    assert_same(trained_twice()[1], states(model, optimizer, True), rtol=0, atol=0)


def test_keys_that_do_not_fit_are_told_and_the_whole_state_is_released():
    full = {**full_state(), "strange": torch.ones(1)}
    del full["output.bias"]
    fitted = training.load_from_full_model_state_dict(Stack().bfloat16(), full, CPU)
    assert (fitted.missing_keys, fitted.unexpected_keys) == (["output.bias"], ["strange"])
    assert set(full.values()) == {None} and "strange" in full
    with pytest.raises(RuntimeError, match="strange"):
        training.load_from_full_model_state_dict(Stack(), {"strange": torch.ones(1)}, CPU, strict=True)


def test_weights_get_the_models_dtype_and_are_kept_on_request():
    full, model = full_state(), Stack().bfloat16()
    training.load_from_full_model_state_dict(model, full, CPU, release_sd=False)
    assert model.output.weight.dtype == torch.bfloat16 and len(full) == 6
    torch.testing.assert_close(model.output.weight, full["output.weight"].bfloat16(), rtol=0, atol=0)


def test_adapter_weights_only():
    model = Stack()
    model.layers[1].adapter_params = lambda: ["bias"]
    assert set(training.gather_cpu_state_dict(model, True, adapter_weights_only=True)) == {"layers.1.bias"}
    assert training.gather_cpu_state_dict(model, False) == {}


def test_an_optimizer_state_of_other_parameters_is_refused():
    model, optimizer = make()
    saved = training.get_full_optimizer_state_dict(model, torch.optim.AdamW(model.output.parameters()), True)
    with pytest.raises(CheckpointError, match="2 parameters in 1 groups.*layers.0.bias"):
        training.load_from_full_optimizer_state_dict(model, optimizer, saved, CPU)


def test_a_model_without_a_chosen_module_is_refused():
    with pytest.raises(ConfigError, match="layers.N"):
        training.shard_model(Stack(), [lambda name, module: False], cpu_offload=False)


# What torchtune 0.6.1 answers.
@pytest.mark.parametrize(
    ("name", "expected"),
    [("layers.0", True), ("decoder.layers.11", True), ("layers", False), ("layers.0.attn", False), ("layer.0", False),
     ("output", False), ("tok_embeddings", True), ("embeddings", False), ("a.emb", True), ("emb", False)],
)  # fmt: skip
def test_shard_conditions(name, expected):
    assert training.get_shard_conditions(name, nn.Identity(), ["tok_embeddings", "a.emb"]) is expected
    assert training.get_shard_conditions(name, nn.Identity()) is (
        expected and name in ("layers.0", "decoder.layers.11")
    )


@pytest.mark.parametrize(
    ("device", "offload", "backend"),
    [("cpu", False, "gloo"), ("cuda", False, "nccl"), ("cuda", True, "cuda:nccl,cpu:gloo"), ("xpu", False, "xccl")],
)
def test_backend(device, offload, backend):
    assert training.get_distributed_backend(device, offload) == backend


def test_a_group_is_joined_when_the_environment_describes_one(monkeypatch, tmp_path):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert not training.is_distributed() and not training.init_distributed(backend="gloo")
    assert training.get_world_size_and_rank() == (1, 0)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    assert training.is_distributed()
    try:
        assert training.init_distributed(backend="gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        assert dist.get_backend() == "gloo"
    finally:
        dist.destroy_process_group()


def test_the_context_of_a_step_opens_what_it_is_given():
    opened = []

    @contextmanager
    def given():
        opened.append(True)
        yield
        opened.append(False)

    context = training.get_train_context(enable_loss_parallel=False)
    with context(given()):
        assert opened == [True]
    with context():
        assert opened == [True, False]
    with training.get_train_context(enable_loss_parallel=True)():
        pass
