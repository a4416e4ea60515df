"""A run state saved by some processes, read by others."""

import json
import random

import numpy
import pytest
import torch

from torchtune.errors import CheckpointError
from torchtune.training.checkpointing import LocalShard, Span, commit_folder, load_state, save_state
from torchtune.training.checkpointing.state import rng_state, set_rng_state

WHOLE = {
    "matrix": {"exp_avg": torch.randn(5, 3), "exp_avg_sq": torch.randn(5, 3).bfloat16(), "step": torch.tensor(7.0)},
    "row": {"exp_avg": torch.randn(1, 4), "row_var": torch.randn(1, 1), "step": torch.tensor(7.0)},
    "vector": {"exp_avg": torch.randn(4), "step": torch.tensor(7.0)},
    "factored": {"row_var": torch.randn(6, 1), "col_var": torch.randn(1, 2)},
    "stateless": {},
}
SHAPES = {"matrix": (5, 3), "row": (1, 4), "vector": (4,), "factored": (6, 2), "stateless": (2, 2)}


def rows_of(shape, rank, world):
    """As FSDP splits dim 0: even chunks, the last ones short or empty."""
    size = -(-shape[0] // world)
    start = min(rank * size, shape[0])
    return start, min(size, shape[0] - start)


def local(parameter, tensor, rank, world):
    if tensor.shape[:1] != SHAPES[parameter][:1]:
        return LocalShard(tensor, tuple(tensor.shape))
    start, count = rows_of(tensor.shape, rank, world)
    return LocalShard(tensor[start : start + count], tuple(tensor.shape), start)


def save(folder, world, rng=None, optimizer=None):
    def write(path):
        records = {}
        for rank in range(world):
            shards = {p: {s: local(p, t, rank, world) for s, t in slots.items()} for p, slots in WHOLE.items()}
            facts = {"step": 7, "lr": 0.1 + 0.2}
            rest = {"rank": rank, "world_size": world, "rng": rng or {"n": [rank, 1.5, None]}, "facts": facts}
            records |= save_state(path, optimizer=optimizer or shards, **rest)
        return records

    commit_folder(folder, write)
    return folder


def spans(rank, world):
    return {p: Span(s, *rows_of(s, rank, world)) for p, s in SHAPES.items()}


@pytest.mark.parametrize("saved_by", [1, 2, 4])
@pytest.mark.parametrize("read_by", [1, 2, 3])
def test_any_number_of_processes_reads_it(tmp_path, saved_by, read_by):
    folder = save(tmp_path / "step_7", saved_by)
    for rank in range(read_by):
        state = load_state(folder, rank=rank, world_size=read_by, wanted=spans(rank, read_by))
        assert state.optimizer.keys() == WHOLE.keys()
        for parameter, slots in WHOLE.items():
            assert state.optimizer[parameter].keys() == slots.keys()
            for slot, tensor in slots.items():
                assert torch.equal(state.optimizer[parameter][slot], local(parameter, tensor, rank, read_by).tensor)
                assert state.optimizer[parameter][slot].dtype == tensor.dtype
        assert state.facts == {"world_size": saved_by, "step": 7, "lr": 0.1 + 0.2}
        assert state.rng == ({"n": [rank, 1.5, None]} if saved_by == read_by else None)


def test_files_hold_no_pickle(tmp_path):
    folder = save(tmp_path / "step_7", 2)
    assert sorted(p.name for p in folder.iterdir()) == [
        "MANIFEST.json",
        "optimizer-00000-of-00002.safetensors",
        "optimizer-00001-of-00002.safetensors",
        "rng-00000.safetensors",
        "rng-00001.safetensors",
        "state.json",
    ]
    assert json.loads((folder / "state.json").read_text())["step"] == 7


def test_random_state_goes_on(tmp_path):
    draw = lambda: (torch.rand(3).tolist(), random.gauss(0, 1), numpy.random.randn(3).tolist())  # noqa: E731
    draw()
    random.gauss(0, 1)  # leaves a spare value behind
    numpy.random.randn(1)
    folder = save(tmp_path / "step_7", 1, rng=rng_state())
    expected = draw()
    draw()
    set_rng_state(load_state(folder, rank=0, world_size=1, wanted=spans(0, 1)).rng)
    assert draw() == expected


def test_other_parameters_are_refused(tmp_path):
    folder = save(tmp_path / "step_7", 1)
    for change, message in (
        ({"extra": Span((1,), 0, 1)}, r"1 trained ones are not in it \['extra'\]"),
        ({"matrix": Span((5, 4), 0, 5)}, r"matrix\|exp_avg has shape \[5, 3\], the parameter has \[5, 4\]"),
        ({"vector": Span((3,), 0, 3)}, "is this another model"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_state(folder, rank=0, world_size=1, wanted=spans(0, 1) | change)
    fewer = {k: v for k, v in spans(0, 1).items() if k != "row"}
    with pytest.raises(CheckpointError, match=r"not trained now \['row'\]"):
        load_state(folder, rank=0, world_size=1, wanted=fewer)


def test_what_cannot_be_split_needs_as_many_processes(tmp_path):
    quantised = {"w": {"state1": LocalShard(torch.arange(6, dtype=torch.uint8), (6,), None)}}
    folder = save(tmp_path / "step_7", 2, optimizer=quantised)
    wanted = {"w": Span((3, 2), 0, 2)}
    assert load_state(folder, rank=1, world_size=2, wanted=wanted).optimizer["w"]["state1"].tolist() == list(range(6))
    with pytest.raises(CheckpointError, match="as many processes"):
        load_state(folder, rank=0, world_size=1, wanted={"w": Span((3, 2), 0, 3)})


def test_an_absent_part_is_named(tmp_path):
    folder = save(tmp_path / "step_7", 2)
    (folder / "optimizer-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="optimizer-00001-of-00002.safetensors is missing"):
        load_state(folder, rank=0, world_size=1, wanted=spans(0, 1))
