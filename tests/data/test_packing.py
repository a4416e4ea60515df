"""Best-fit packing, cutting at capacity, and the mask of packed documents."""

import time

import numpy as np
import pytest
import torch

from torchtune.data._packing import best_fit_decreasing, block_causal_mask, cut_at_capacity


def _lognormal(n: int, median: int, capacity: int, seed: int = 0) -> np.ndarray:
    lengths = np.random.default_rng(seed).lognormal(np.log(median), 0.75, n)
    return np.clip(lengths, 1, capacity).astype(np.int64)


def _slow_best_fit(lengths: list[int], capacity: int) -> int:
    """The number of packs by trying every pack: the rule in its plainest form."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fits = [i for i, room in enumerate(rooms) if room >= length]
        if not fits:
            rooms.append(capacity - length)
        else:
            rooms[min(fits, key=lambda i: rooms[i])] -= length
    return len(rooms)


@pytest.mark.parametrize("seed", range(20))
def test_no_pack_overflows_and_the_count_is_that_of_the_plain_rule(seed):
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(1, 60))
    lengths = rng.integers(1, capacity + 1, size=int(rng.integers(1, 200)))
    packs = best_fit_decreasing(lengths, capacity)
    assert len(packs) == len(lengths)
    assert np.bincount(packs, weights=lengths).max() <= capacity
    assert packs.max() + 1 == len(set(packs.tolist())) == _slow_best_fit(lengths.tolist(), capacity)


def test_packs_are_numbered_by_their_first_document_and_the_same_each_time():
    lengths = _lognormal(500, 100, 1024)
    packs = best_fit_decreasing(lengths, 1024)
    firsts = [int(np.flatnonzero(packs == pack)[0]) for pack in range(packs.max() + 1)]
    assert firsts == sorted(firsts)
    assert np.array_equal(packs, best_fit_decreasing(lengths, 1024))


def test_short_samples_leave_almost_no_room():
    lengths = _lognormal(20_000, 130, 4096)
    packs = best_fit_decreasing(lengths, 4096)
    assert (packs.max() + 1) * 4096 / lengths.sum() < 1.001


@pytest.mark.parametrize("capacity", [4096, 131_072])
def test_52000_samples_take_well_under_a_second(capacity):
    lengths = _lognormal(52_000, 420, capacity)
    start = time.process_time()
    best_fit_decreasing(lengths, capacity)
    assert time.process_time() - start < 0.5


def test_cutting_covers_every_token_once_within_documents_and_packs():
    lengths, capacity = np.array([5, 6, 3, 20, 8]), 8
    starts, stops = cut_at_capacity(lengths, capacity)
    assert starts[0] == 0 and stops[-1] == lengths.sum()
    assert np.array_equal(starts[1:], stops[:-1])
    assert np.array_equal(starts // capacity, (stops - 1) // capacity)
    assert set(np.cumsum(lengths)) <= set(stops)


def test_mask_lets_a_token_see_the_earlier_ones_of_its_document():
    seq_lens = [torch.tensor([2, 3, 1]), torch.tensor([6])]
    mask = block_causal_mask(seq_lens)
    assert mask.shape == (2, 6, 6) and mask.dtype == torch.bool
    for row, lens in enumerate(seq_lens):
        document = torch.repeat_interleave(torch.arange(len(lens)), lens)
        for i in range(6):
            for j in range(6):
                assert mask[row, i, j] == (document[i] == document[j] and j <= i)


def test_mask_needs_rows_of_one_length():
    with pytest.raises(ValueError, match=r"\[3, 4\]"):
        block_causal_mask([torch.tensor([3]), torch.tensor([2, 2])])
