"""Which samples a step sees: independent of processes, resumable, without touching the global random state."""

import multiprocessing
import subprocess
from collections import Counter

import pytest
import torch
from torch.utils.data import Dataset

from torchtune.data import padded_collate_sft
from torchtune.data._loader import EpochOrder, StepLoader, validation_batches
from torchtune.errors import DataError


class Numbers(Dataset):
    """Sample i is i + 1 copies of i, so that a batch says what is in it; sample ``broken`` cannot be used."""

    def __init__(self, length: int, broken: int | None = None) -> None:
        self.length, self.broken = length, broken

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        if index == self.broken:
            raise DataError(f"data.jsonl, line {index + 1}: broken")
        return {"tokens": [index] * (index % 3 + 1), "labels": [index] * (index % 3 + 1)}


def loader(length: int = 25, **changes) -> StepLoader:
    arguments = {"batch_size": 2, "seed": 7, "shuffle": True, "collate_fn": padded_collate_sft, **changes}
    return StepLoader(Numbers(length), **arguments)


def samples(batch: dict[str, torch.Tensor]) -> list[int]:
    return batch["tokens"][:, 0].tolist()


def steps(source: StepLoader, epoch: int = 0, start_step: int = 0) -> list[list[list[int]]]:
    return [[samples(batch) for batch in step] for step in source.epoch(epoch, start_step)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_two_processes_see_in_a_step_what_one_sees_with_twice_the_accumulation(shuffle):
    one = steps(loader(gradient_accumulation_steps=4, shuffle=shuffle))
    ranks = [
        steps(loader(gradient_accumulation_steps=2, world_size=2, rank=rank, shuffle=shuffle)) for rank in range(2)
    ]
    assert len(one) == 3
    for whole, first, second in zip(one, *ranks, strict=True):
        assert [first[0], second[0], first[1], second[1]] == whole


def test_an_epoch_sees_no_sample_twice_and_leaves_out_the_rest():
    seen = [sample for step in steps(loader(gradient_accumulation_steps=4)) for batch in step for sample in batch]
    assert len(seen) == len(set(seen)) == 24


def test_order_depends_on_seed_and_epoch_only():
    assert steps(loader()) == steps(loader())
    assert steps(loader()) != steps(loader(seed=8))
    assert steps(loader(), 0) != steps(loader(), 1)
    assert steps(loader(shuffle=False), 3)[0] == [[0, 1]]
    assert sorted(EpochOrder(50, seed=-3, shuffle=True).indices(2).tolist()) == list(range(50))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_starting_in_the_middle_gives_the_rest_of_the_epoch(num_workers):
    whole = steps(loader(gradient_accumulation_steps=2))
    resumed = loader(gradient_accumulation_steps=2, num_workers=num_workers)
    assert steps(resumed, 0, 2) == whole[2:]
    assert steps(resumed, 1) == steps(loader(gradient_accumulation_steps=2), 1)  # the same workers, another epoch


def test_state_is_the_position_after_the_step_that_was_given_out():
    source = loader()
    iterator = source.epoch(1)
    next(iterator), next(iterator)
    state = source.state_dict()
    assert state == {"epoch": 1, "step": 2}
    other = loader()
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert steps(other, **{"epoch": state["epoch"], "start_step": state["step"]})[0] == [
        samples(batch) for batch in next(iterator)
    ]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_global_random_state_is_left_alone(num_workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader(num_workers=num_workers).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_row_is_reported_in_its_own_words(num_workers):
    source = StepLoader(
        Numbers(8, broken=5),
        batch_size=2,
        seed=0,
        shuffle=False,
        collate_fn=padded_collate_sft,
        num_workers=num_workers,
    )
    with pytest.raises(DataError) as error:
        list(source.epoch(0))
    assert str(error.value) == "data.jsonl, line 6: broken"


def test_a_signal_to_all_processes_ends_none_that_prepares_batches():
    """The training process saves first, and may want batches until then."""
    before = multiprocessing.active_children()
    source = loader(num_workers=1)
    given = source.epoch(0)
    first = next(given)
    (child,) = set(multiprocessing.active_children()) - set(before)
    for name in ("TERM", "INT"):
        subprocess.run(["kill", f"-{name}", str(child.pid)], check=True)
    assert [[samples(batch) for batch in step] for step in (first, *given)] == steps(loader())


def test_a_process_that_prepares_batches_ends_some_time_after_it_was_told(monkeypatch):
    monkeypatch.setattr("torchtune.data._loader._SECONDS_FOR_A_STEP", 0.1)
    before = multiprocessing.active_children()
    source = loader(num_workers=1)
    next(source.epoch(0))
    (child,) = set(multiprocessing.active_children()) - set(before)
    child.terminate()
    child.join(10)
    assert child.exitcode == 0  # else torch would raise an error in the training process


def test_too_small_a_dataset_says_the_numbers():
    with pytest.raises(DataError, match="has 7 samples.*needs 16: batch_size 2 x gradient_accumulation_steps 4 x 2"):
        loader(7, gradient_accumulation_steps=4, world_size=2)
    with pytest.raises(DataError, match="no samples"):
        loader(0)


def test_keeping_the_last_samples_gives_every_process_as_many_batches():
    ranks = [
        list(loader(13, gradient_accumulation_steps=2, world_size=2, rank=rank, drop_last=False).epoch(0))
        for rank in range(2)
    ]
    assert [len(step) for rank in ranks for step in rank] == [2, 2, 2, 2]
    seen = Counter(
        int(row[0]) for rank in ranks for step in rank for batch in step for row in batch["labels"] if row[0] != -100
    )
    assert seen == Counter(range(13))


@pytest.mark.parametrize(("length", "world_size"), [(13, 1), (13, 2), (13, 4), (1, 3), (16, 2)])
def test_validation_covers_every_sample_once_with_equal_numbers_of_batches(length, world_size):
    ranks = [
        list(validation_batches(Numbers(length), 2, rank, world_size, padded_collate_sft)) for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    seen = Counter(int(row[0]) for batches in ranks for batch in batches for row in batch["labels"] if row[0] != -100)
    assert seen == Counter(range(length))
