"""Mixtures: shares by weight, and what happens when a dataset is used up."""

from collections import Counter

import pytest
from test_packed import Documents

from torchtune.data import StepLoader, padded_collate_sft
from torchtune.data._stream import Order, Streamed
from torchtune.datasets import ConcatDataset, PackedDataset
from torchtune.datasets._mixture import MixtureDataset, MixtureStream
from torchtune.errors import ConfigError, DataError

ORDER = Order((1, 0), shuffle=True)


class Counting:
    """A stream of (name, which pass, number)."""

    streaming, packed = True, False

    def __init__(self, name: str, length: int) -> None:
        self.name, self.length = name, length

    def samples(self, order, at=None):
        for number in range(at or 0, self.length):
            yield Streamed(lambda number=number: (self.name, order.key[-1], number), number + 1)

    def fingerprint(self) -> str:
        return self.name


def mixed(lengths=(3000, 1000), weights=(3, 1), stop="all_exhausted", order=ORDER, at=None) -> list:
    streams = [Counting(name, length) for name, length in zip("abc", lengths)]
    return [(found.make(), found.position) for found in MixtureStream(streams, weights, stop).samples(order, at)]


def test_datasets_of_the_users_own_need_no_fingerprint():
    own = [[{"tokens": [1]}], [{"tokens": [2]}]]
    assert ConcatDataset(own).fingerprint() and MixtureDataset(own, [1, 1]).fingerprint()


def test_streams_give_their_shares_each_in_its_own_order():
    found = [sample for sample, _ in mixed((5000, 5000), (3, 1), "first_exhausted")]
    assert Counter(name for name, _, _ in found[:2000])["a"] == pytest.approx(1500, rel=0.05)
    for name in "ab":
        assert [number for found_name, _, number in found if found_name == name] == list(
            range(sum(found_name == name for found_name, _, _ in found))
        )


def test_the_first_that_is_exhausted_ends_the_epoch():
    found = [sample for sample, _ in mixed((300, 1000), (1, 1), "first_exhausted")]
    counts = Counter(name for name, _, _ in found)
    assert counts["a"] == 300 and counts["b"] == pytest.approx(300, rel=0.25)
    assert {turn for _, turn, _ in found} == {0}


def test_all_are_exhausted_and_small_ones_begin_anew():
    found = [sample for sample, _ in mixed((100, 1000), (1, 1))]
    assert {number for name, _, number in found if name == "b"} == set(range(1000))
    assert max(turn for name, turn, _ in found if name == "a") >= 8
    assert {turn for name, turn, _ in found if name == "b"} == {0}
    assert mixed((100, 1000), (1, 1))[:50] != mixed((100, 1000), (1, 1), order=Order((1, 1), True))[:50]


@pytest.mark.parametrize("stop", ["first_exhausted", "all_exhausted"])
def test_a_mixed_stream_goes_on_from_every_position(stop):
    whole = mixed((30, 100, 45), (2, 1, 1), stop)
    for after in range(0, len(whole), 7):
        assert mixed((30, 100, 45), (2, 1, 1), stop, at=whole[after][1]) == whole[after + 1 :]


def test_an_empty_stream_is_an_error():
    with pytest.raises(DataError, match=r"dataset\[1\] of the mixture has no sample"):
        mixed((100, 0), (1, 1))


def test_datasets_are_mixed_by_number():
    data = MixtureDataset([Documents([2] * 30), Documents([4] * 10)], [1, 3])
    loader = StepLoader(data, batch_size=4, seed=0, shuffle=True, collate_fn=padded_collate_sft)
    assert loader.steps_per_epoch == 30  # 30 of the first, which are a quarter
    seen = Counter(len(row[row != -100]) for (batch,) in loader.epoch(0) for row in batch["labels"])
    assert seen == {2: 30, 4: 90}


def test_packs_are_mixed():
    packs = [PackedDataset(Documents([3] * count), max_seq_len=8) for count in (40, 8)]
    data = MixtureDataset(packs, [1, 1], "first_exhausted")
    assert data.packed and data.epoch_order(seed=0, shuffle=True).length == 8


def test_fingerprints_change_with_weights_and_rule():
    parts = [PackedDataset(Documents([3] * 8), max_seq_len=8)] * 2
    streams = [Counting("a", 1), Counting("b", 1)]
    for kind, made in ((MixtureDataset, parts), (MixtureStream, streams)):
        found = {kind(made, w, s).fingerprint() for w in ([1, 1], [1, 2]) for s in ("first_exhausted", "all_exhausted")}
        assert len(found) == 4 and kind(made, [2, 2]).fingerprint() in found


@pytest.mark.parametrize(
    "weights",
    [[1], *([1, wrong] for wrong in (0, -1, float("nan"), float("inf"), "abc", "3", None, True, [1]))],
)
def test_wrong_weights(weights):
    with pytest.raises(ConfigError, match="as many weights above 0"):
        MixtureDataset([Documents([2]), Documents([2])], weights)


def test_a_wrong_rule():
    with pytest.raises(ConfigError, match="mixture_stop is 'never'"):
        MixtureStream([Counting("a", 1)], [1], "never")
