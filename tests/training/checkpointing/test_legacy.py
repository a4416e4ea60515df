"""Helpers that copied recipes import."""

import pytest
import torch

from torchtune.errors import CheckpointError
from torchtune.training.checkpointing import get_largest_iter_folder, update_state_dict_for_classifier


def test_largest_folder(tmp_path):
    assert get_largest_iter_folder(tmp_path) is None
    for name in ("epoch_0", "epoch_10", "epoch_2", "step_99", "logs"):
        (tmp_path / name).mkdir()
    assert get_largest_iter_folder(tmp_path) == "epoch_10"
    assert get_largest_iter_folder(str(tmp_path), pattern=r"^step_(\d+)") == "step_99"


@pytest.mark.parametrize(("rows", "force", "replaced"), [(5, False, True), (1, False, False), (1, True, True)])
def test_classifier_head(rows, force, replaced):
    state = {"a": torch.zeros(1), "output.weight": torch.zeros(rows, 2), "output.bias": torch.zeros(1)}
    update_state_dict_for_classifier(state, [("output.weight", torch.ones(1, 2))], force_override=force)
    assert state["output.weight"].tolist() == ([[1, 1]] if replaced else [[0, 0]]) and "output.bias" not in state


def test_classifier_needs_both_heads():
    head = torch.zeros(1, 2)
    with pytest.raises(CheckpointError, match="state dict has no output.weight"):
        update_state_dict_for_classifier({}, [("output.weight", head)])
    with pytest.raises(CheckpointError, match="model has no output.weight"):
        update_state_dict_for_classifier({"output.weight": head}, [])
