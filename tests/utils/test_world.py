import pytest
import torch
import torch.distributed as dist

from torchtune.utils import get_world_size_and_rank, torch_version_ge
from torchtune.utils._world import is_rank_zero


def test_without_a_group_the_world_is_one():
    assert get_world_size_and_rank() == (1, 0) and is_rank_zero()


def test_with_a_group_it_answers(tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        assert get_world_size_and_rank() == (1, 0)
    finally:
        dist.destroy_process_group()


def test_torchruns_rank_counts_before_there_is_a_group(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert not is_rank_zero()


@pytest.mark.parametrize(
    ("installed", "asked", "answer"),
    [
        ("2.13.0+cpu", "2.13.0", True),
        ("2.13.0+cpu", "2.13", True),
        ("2.13.0+cpu", "2.9", True),
        ("2.9.1", "2.13.0", False),
        ("2.14.0.dev20261101+cu130", "2.14.0", True),
        ("2.13.0", "2.13.1", False),
    ],
)
def test_versions_compare_by_number(monkeypatch, installed, asked, answer):
    monkeypatch.setattr(torch, "__version__", installed)
    assert torch_version_ge(asked) is answer


def test_a_version_without_a_number_is_refused():
    with pytest.raises(ValueError, match="'nightly'"):
        torch_version_ge("nightly")
