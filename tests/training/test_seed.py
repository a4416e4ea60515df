import random

import numpy as np
import pytest
import torch
import torch.distributed as dist

from torchtune.errors import ConfigError
from torchtune.training.seed import set_seed


def _draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()


@pytest.fixture(autouse=True)
def torch_settings():
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    yield
    torch.set_deterministic_debug_mode(0)
    cudnn.deterministic, cudnn.benchmark = before


def test_the_same_seed_gives_the_same_numbers_everywhere():
    assert set_seed(42) == 42
    first = _draws()
    set_seed(42)
    assert _draws() == first
    set_seed(43)
    assert all(a != b for a, b in zip(_draws(), first))


def test_the_line_is_the_documented_one(caplog):
    caplog.set_level("INFO", "torchtune")
    set_seed(42)
    assert "Setting manual seed to local seed 42. Local seed is seed + rank = 42 + 0" in caplog.messages


def test_a_drawn_seed_does_not_depend_on_seeds_set_before():
    set_seed(1)
    first = set_seed(None)
    set_seed(1)
    assert set_seed(None) != first


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_32_bits_is_refused(seed):
    with pytest.raises(ConfigError, match=f"seed is {seed}"):
        set_seed(seed)


@pytest.mark.parametrize(("mode", "level"), [(0, 0), (1, 1), ("2", 2), ("error", 2), ("warn", 1)])
def test_determinism_is_switched(mode, level, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    set_seed(1, debug_mode=mode)
    assert torch.get_deterministic_debug_mode() == level
    assert torch.backends.cudnn.deterministic is (level > 0) and torch.backends.cudnn.benchmark is (level == 0)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="cudnn_deterministic_mode is 'loud'"):
        set_seed(1, debug_mode="loud")


def _in_a_process(rank, store, out):
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    given, drawn = set_seed(7), set_seed(None)
    with open(f"{out}/{rank}", "w") as file:
        file.write(f"{given} {drawn}")
    dist.destroy_process_group()


def test_two_processes_agree_on_a_drawn_seed_and_add_their_rank(tmp_path):
    torch.multiprocessing.spawn(_in_a_process, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    (given0, drawn0), (given1, drawn1) = ((int(x) for x in (tmp_path / r).read_text().split()) for r in "01")
    assert (given0, given1) == (7, 8) and drawn1 == drawn0 + 1
