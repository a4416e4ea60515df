"""Packed datasets: nothing lost, nothing leaking from one document to the next."""

import logging
import time
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from torchtune.data import padded_collate_packed, padded_collate_sft
from torchtune.datasets import ConcatDataset, PackedDataset
from torchtune.datasets._prepare import Preparation
from torchtune.datasets._token_table import TokenTable
from torchtune.errors import ConfigError, DataError


class Documents(Dataset):
    """Document i has ``lengths[i]`` tokens 1000 * i, 1000 * i + 1, ...; the first ``masked[i]`` are not trained on."""

    def __init__(self, lengths, masked=None) -> None:
        self.lengths, self.masked = lengths, masked or [0] * len(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        tokens = [1000 * index + i for i in range(self.lengths[index])]
        return {"tokens": tokens, "labels": [-100] * self.masked[index] + tokens[self.masked[index] :]}


def pieces(packed: PackedDataset) -> list[dict[str, list[int]]]:
    """Every document, or piece of one, of every pack, without the padding."""
    found = []
    for pack in (packed[i] for i in range(len(packed))):
        assert {len(pack[key]) for key in ("tokens", "labels", "input_pos")} == {packed.max_seq_len}
        assert pack["seq_lens"].sum() == packed.max_seq_len
        columns = zip(*(pack[key].split(pack["seq_lens"].tolist()) for key in ("tokens", "labels", "input_pos")))
        for tokens, labels, positions in columns:
            assert positions.tolist() == list(range(len(tokens)))
            if tokens[0] != packed.padding_idx:
                found.append({"tokens": tokens.tolist(), "labels": labels.tolist()})
            else:
                assert (tokens == packed.padding_idx).all() and (labels == -100).all()
    return found


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_every_token_is_there_once_and_in_order(seed, split):
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(4, 40))
    lengths = rng.integers(2, 3 * capacity if split else capacity + 1, size=60).tolist()
    packed = PackedDataset(Documents(lengths), max_seq_len=capacity, padding_idx=-1, split_across_pack=split)
    found = pieces(packed)
    tokens = [token for piece in found for token in piece["tokens"]]
    assert Counter(tokens) == Counter(1000 * i + j for i, n in enumerate(lengths) for j in range(n))
    for piece in found:
        first = piece["tokens"][0]
        assert piece["tokens"] == list(range(first, first + len(piece["tokens"])))
        assert piece["labels"] == [-100, *piece["tokens"][1:]]
    if split:
        assert tokens == sorted(tokens)
        assert len(packed) == -(-sum(lengths) // capacity)
    else:
        assert Counter(map(len, (piece["tokens"] for piece in found))) == Counter(lengths)


def test_a_shift_by_one_finds_the_same_targets_packed_and_unpacked():
    documents = Documents([5, 3, 7, 2, 6], masked=[2, 0, 6, 1, 3])

    def targets(batch):
        shifted = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)
        kept = shifted != -100
        return Counter(zip(batch["tokens"][kept].tolist(), shifted[kept].tolist()))

    packed = PackedDataset(documents, max_seq_len=9)
    together = padded_collate_packed([packed[i] for i in range(len(packed))])
    alone = padded_collate_sft([documents[i] for i in range(len(documents))])
    assert targets(together) == targets(alone)
    assert all(label == token + 1 for token, label in targets(together))


def test_items_are_tensors_of_int64_and_can_be_counted_from_the_end():
    packed = PackedDataset(Documents([5, 3, 2]), max_seq_len=8, padding_idx=99)
    assert len(packed) == 2
    assert packed[0]["tokens"].tolist() == [0, 1, 2, 3, 4, 1000, 1001, 1002]
    assert packed[-1]["tokens"].tolist() == [2000, 2001, 99, 99, 99, 99, 99, 99]
    assert packed[-1]["input_pos"].tolist() == [0, 1, 0, 1, 2, 3, 4, 5]
    assert packed[-1]["seq_lens"].tolist() == [2, 6]
    assert {tensor.dtype for tensor in packed[0].values()} == {torch.int64}
    with pytest.raises(IndexError):
        packed[2]


def test_documents_without_a_target_are_left_out_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        packed = PackedDataset(Documents([4, 4, 1, 4], masked=[4, 0, 0, 4]), max_seq_len=8)
        packed.prepare(Preparation())
    assert "left out 3 of 4 samples" in caplog.text
    assert [piece["tokens"][0] for piece in pieces(packed)] == [1000]
    with pytest.raises(DataError, match="none of the 2 samples has a token to train on"):
        len(PackedDataset(Documents([4, 4], masked=[4, 4]), max_seq_len=8))


def test_too_long_a_document():
    with pytest.raises(DataError, match="sample 2 has 12 tokens and a pack holds 8; so it is with 1 of 3 samples"):
        len(PackedDataset(Documents([5, 12, 3]), max_seq_len=8))


def test_max_packs_stops_early():
    class Counted(Documents):
        read = 0

        def __getitem__(self, index):
            Counted.read += 1
            return super().__getitem__(index)

    assert len(PackedDataset(Counted([4] * 1000), max_seq_len=8, max_packs=3)) == 3
    assert Counted.read <= 256
    assert len(PackedDataset(Documents([4] * 100), max_seq_len=8, max_packs=3, split_across_pack=True)) == 3
    with pytest.raises(ConfigError, match="max_packs is 0"):
        PackedDataset(Documents([4]), max_seq_len=8, max_packs=0)


def test_memory_is_five_bytes_per_token():
    table = PackedDataset(Documents([500] * 40), max_seq_len=1000).packs.table
    assert table.tokens.nbytes + table.trained.nbytes == 5 * 40 * 500


def test_greedy_packs_keep_the_order_and_waste_more():
    lengths = [5, 4, 4, 3, 2, 6]
    greedy = PackedDataset(Documents(lengths), max_seq_len=8, padding_idx=-1, strategy="greedy")
    assert [piece["tokens"][0] // 1000 for piece in pieces(greedy)] == [0, 1, 2, 3, 4, 5]
    assert [pack["seq_lens"].tolist() for pack in greedy] == [[5, 3], [4, 4], [3, 2, 3], [6, 2]]
    assert len(PackedDataset(Documents(lengths), max_seq_len=8)) == 3
    with pytest.raises(ConfigError, match="best_fit, greedy"):
        PackedDataset(Documents([4]), max_seq_len=8, strategy="worst")


def test_hundred_thousand_documents_are_packed_in_a_second():
    lengths = np.clip(np.random.default_rng(0).lognormal(5.6, 0.9, 100_000), 16, 4096).astype(int)
    table = TokenTable(np.zeros(lengths.sum(), np.int32), np.ones(lengths.sum(), bool), np.cumsum(lengths))
    packed = PackedDataset(Documents([1]), max_seq_len=4096)
    started = time.process_time()
    packs = packed._pack(table)
    assert time.process_time() - started < 1
    assert packs.num_tokens / len(packs) / 4096 > 0.999


def test_concat():
    both = ConcatDataset([Documents([2, 3]), Documents([4])])
    assert len(both) == 3 and not both.packed
    assert [len(both[i]["tokens"]) for i in (0, 1, 2, -1)] == [2, 3, 4, 4]
    with pytest.raises(IndexError):
        both[3]
    packs = PackedDataset(Documents([2]), max_seq_len=4)
    assert ConcatDataset([packs, packs]).packed
    with pytest.raises(ConfigError, match="packed and unpacked"):
        ConcatDataset([packs, Documents([2])])
    with pytest.raises(ConfigError, match="empty list"):
        ConcatDataset([])
