"""Orders of samples: by weight, and grouped by length."""

from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from test_loader import Numbers, steps

from torchtune.data import StepLoader, padded_collate_sft
from torchtune.data._order import EpochOrder, LengthGroupedOrder, MixtureOrder


def mixture(lengths=(100, 40), weights=(0.5, 0.5), **changes) -> MixtureOrder:
    return MixtureOrder(lengths, weights, **{"every": True, "seed": 3, "shuffle": True, **changes})


def counts(order: MixtureOrder, epoch: int = 0) -> list[Counter]:
    """How often each sample of each dataset comes."""
    found, start = [], 0
    indices = order.indices(epoch)
    assert len(indices) == order.length
    for length in order.lengths:
        found.append(Counter(indices[(indices >= start) & (indices < start + length)].tolist()))
        start += length
    return found


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("every", "weights", "taken"),
    [
        (True, (0.5, 0.5), (100, 100)),
        (True, (0.9, 0.1), (360, 40)),
        (True, (0.1, 0.9), (100, 900)),
        (False, (0.5, 0.5), (40, 40)),
        (False, (0.9, 0.1), (100, 11)),
        (False, (0.1, 0.9), (4, 40)),
        (False, (0.0001, 0.9999), (1, 40)),
    ],
)
def test_each_dataset_gives_its_share(every, weights, taken, shuffle):
    order = mixture(weights=weights, every=every, shuffle=shuffle)
    for found, length, number in zip(counts(order), order.lengths, taken, strict=True):
        assert sum(found.values()) == number
        assert set(found.values()) <= {number // length, -(-number // length)}  # none twice before all have come
    assert all(len(found) == length for found, length in zip(counts(order), order.lengths)) or not every


def test_epochs_have_other_orders_and_the_same_length():
    order = mixture(weights=(0.9, 0.1), every=False)
    first, second = order.indices(0), order.indices(1)
    assert not torch.equal(first, second) and torch.equal(first, order.indices(0))
    assert set(counts(order, 0)[1]) != set(counts(order, 1)[1])  # other samples of what is not used up
    assert not torch.equal(first, mixture(weights=(0.9, 0.1), every=False, seed=4).indices(0))


def test_stored_order_is_evenly_mixed():
    indices = mixture((6, 3), (2 / 3, 1 / 3), shuffle=False).indices(0).tolist()
    assert indices == [0, 6, 1, 2, 7, 3, 4, 8, 5]


@pytest.mark.parametrize("rule", ["first_exhausted", "all_exhausted"])
def test_an_epoch_is_as_long_as_interleaved_datasets_are(rule):
    lengths, weights = (4000, 500, 2500), [0.5, 0.2, 0.3]
    parts = [datasets.Dataset.from_dict({"x": list(range(length))}) for length in lengths]
    theirs = datasets.interleave_datasets(parts, probabilities=weights, seed=0, stopping_strategy=rule)
    ours = mixture(lengths, weights, every=rule == "all_exhausted")
    assert ours.length == pytest.approx(len(theirs), rel=0.1)


LENGTHS = np.random.default_rng(0).lognormal(4, 1, 1000).astype(int) + 1


def padded(order, batch_size: int) -> float:
    """Positions of an epoch's batches over the tokens in them."""
    lengths = LENGTHS[order.indices(0).numpy()].reshape(-1, batch_size)
    return lengths.max(1).sum() * batch_size / lengths.sum()


def test_grouped_by_length_the_same_samples_come_and_less_is_padded():
    plain = EpochOrder(1000, seed=5, shuffle=True)
    grouped = LengthGroupedOrder(plain, LENGTHS, 8, seed=5)
    assert sorted(grouped.indices(1).tolist()) == list(range(1000))
    assert torch.equal(grouped.indices(1), LengthGroupedOrder(plain, LENGTHS, 8, seed=5).indices(1))
    assert not torch.equal(grouped.indices(1), grouped.indices(2))
    assert padded(plain, 8) > 2 and padded(grouped, 8) < 1.2
    steps = LENGTHS[grouped.indices(0).numpy()].reshape(-1, 8).mean(1)
    assert abs(np.corrcoef(np.arange(len(steps)), steps)[0, 1]) < 0.3  # long ones are spread over the epoch


def test_what_does_not_fill_a_step_stays_at_the_end():
    plain = EpochOrder(1000, seed=5, shuffle=True)
    assert torch.equal(LengthGroupedOrder(plain, LENGTHS, 7, seed=5).indices(0)[-6:], plain.indices(0)[-6:])


@pytest.mark.parametrize("workers", [0, 1])
def test_grouped_steps_are_the_same_for_any_number_of_processes_and_go_on_exactly(workers):
    lengths = np.array([i % 3 + 1 for i in range(25)])
    options = {"batch_size": 2, "seed": 7, "shuffle": True, "collate_fn": padded_collate_sft, "lengths": lengths}

    def loader(**changes) -> StepLoader:
        return StepLoader(Numbers(25), **options, **changes)

    one = steps(loader(gradient_accumulation_steps=4))
    ranks = [
        steps(loader(gradient_accumulation_steps=2, world_size=2, rank=rank, num_workers=workers)) for rank in range(2)
    ]
    for whole, first, second in zip(one, *ranks, strict=True):
        assert [first[0], second[0], first[1], second[1]] == whole
    assert steps(loader(gradient_accumulation_steps=4), 0, 1) == one[1:]
