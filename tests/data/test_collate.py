"""Padding and stacking samples into batches."""

import pytest
import torch

from torchtune.data import (
    left_pad_sequence,
    padded_collate,
    padded_collate_dpo,
    padded_collate_packed,
    padded_collate_sft,
)
from torchtune.data._collate import collate_packs
from torchtune.errors import ConfigError, DataError

SFT = [{"tokens": [1, 2, 3], "labels": [4, 5, 6]}, {"tokens": [7], "labels": [10]}]


def test_sft_pads_at_the_end():
    batch = padded_collate_sft(SFT, padding_idx=9)
    assert list(batch) == ["tokens", "labels"]
    assert batch["tokens"].tolist() == [[1, 2, 3], [7, 9, 9]]
    assert batch["labels"].tolist() == [[4, 5, 6], [10, -100, -100]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_sft_pads_to_a_multiple_and_gives_positions_for_context_parallel():
    batch = padded_collate_sft(SFT, ignore_idx=-1, pad_to_multiple_of=4, cp_degree=2)
    assert batch["tokens"].tolist() == [[1, 2, 3, 0], [7, 0, 0, 0]]
    assert batch["labels"].tolist() == [[4, 5, 6, -1], [10, -1, -1, -1]]
    assert batch["input_pos"].tolist() == [[0, 1, 2, 3]] * 2


def test_sft_takes_tensors_and_leaves_other_keys_out():
    samples = [{key: torch.tensor(value) for key, value in sample.items()} | {"mask": []} for sample in SFT]
    assert torch.equal(padded_collate_sft(samples)["labels"], padded_collate_sft(SFT)["labels"])


def test_sft_does_not_lose_images_in_silence():
    with pytest.raises(ConfigError, match="encoder_input"):
        padded_collate_sft([SFT[0] | {"encoder_input": {}}])


def test_padded_collate_pads_left_with_a_value_per_key():
    batch = padded_collate(
        [{"a": [1, 2, 3], "b": [4, 5, 6], "c": [1]}, {"a": [7], "b": [10], "c": [2]}],
        pad_direction="left",
        keys_to_pad=["a", "b"],
        padding_idx={"a": 0, "b": -10},
    )
    assert batch["a"].tolist() == [[1, 2, 3], [0, 0, 7]]
    assert batch["b"].tolist() == [[4, 5, 6], [-10, -10, 10]]
    assert batch["c"].tolist() == [[1], [2]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("rows", "fill", "dtype"),
    [
        ([[1, 2, 3], [4]], 0, torch.int64),
        ([[0.5, 1.5], [], [2.5]], 0.25, torch.float32),
        ([[True, False, True], [True]], False, torch.bool),
        ([[True], [False, True]], True, torch.bool),
        ([torch.tensor([1, 2], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)], 9, torch.int32),
        ([[[0.5, 1.0], [1.5, 2.0]], [[2.5, 3.0]]], -1.0, torch.float32),
        ([[], []], 7, torch.int64),
    ],
)
def test_padded_collate_keeps_fractions_and_flags(rows, fill, dtype, side):
    samples = [{"a": row} for row in rows]
    batch = padded_collate(samples, pad_direction=side, keys_to_pad=["a"], padding_idx=fill, pad_to_multiple_of=4)
    assert batch["a"].dtype == dtype and batch["a"].shape[:2] == (len(rows), 4 if any(map(len, rows)) else 0)
    for found, row in zip(batch["a"], rows):
        begin = len(found) - len(row) if side == "left" else 0
        assert found[begin : begin + len(row)].tolist() == torch.as_tensor(row, dtype=dtype).tolist()
        assert (torch.cat([found[:begin], found[begin + len(row) :]]) == fill).all()


@pytest.mark.parametrize(("stack", "shape"), [(False, (4, 3)), (True, (2, 2, 3))])
def test_padded_collate_joins_or_stacks_tensors(stack, shape):
    samples = [{"a": [1], "image": torch.ones(2, 3)}, {"a": [1, 2], "image": torch.ones(2, 3)}]
    batch = padded_collate(
        samples, pad_direction="right", keys_to_pad=["a"], padding_idx=5, pad_to_multiple_of=3, stack_on_new_dim=stack
    )
    assert batch["a"].tolist() == [[1, 5, 5], [1, 2, 5]]
    assert batch["image"].shape == shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pad_direction": "up"}, "pad_direction"),
        ({"keys_to_pad": []}, "at least one key"),
        ({"keys_to_pad": ["z"]}, "'z'"),
        ({"padding_idx": {"b": 1}}, "padding_idx"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of"),
    ],
)
def test_padded_collate_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        padded_collate(
            [{"a": [1], "b": [1]}], **{"pad_direction": "left", "keys_to_pad": ["a"], "padding_idx": 0, **arguments}
        )


def test_dpo_puts_the_chosen_first():
    first = {"chosen_input_ids": [1, 2, 3], "rejected_input_ids": [4, 5]}
    first |= {"chosen_labels": [6, 7, 8], "rejected_labels": [9, 10]}
    second = {"chosen_input_ids": [11, 12], "rejected_input_ids": [13, 14, 15, 16]}
    second |= {"chosen_labels": [1, 1], "rejected_labels": [2, 2, 2, 2]}
    ids, labels = padded_collate_dpo([first, second])
    assert ids.tolist() == [[1, 2, 3, 0], [11, 12, 0, 0], [4, 5, 0, 0], [13, 14, 15, 16]]
    assert labels.tolist() == [[6, 7, 8, -100], [1, 1, -100, -100], [9, 10, -100, -100], [2, 2, 2, 2]]
    assert padded_collate_dpo([first, second], pad_to_multiple_of=8)[0].shape == (4, 8)


def test_left_pad_sequence():
    rows = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    assert left_pad_sequence(rows, batch_first=True, padding_value=9).tolist() == [[1, 2, 3], [9, 9, 4]]
    assert left_pad_sequence(rows).tolist() == [[1, 0], [2, 0], [3, 4]]


def _pack(seq_lens: list[int]) -> dict[str, torch.Tensor]:
    size = sum(seq_lens)
    positions = torch.cat([torch.arange(length) for length in seq_lens])
    return {
        "tokens": torch.arange(size),
        "labels": torch.arange(size),
        "input_pos": positions,
        "seq_lens": torch.tensor(seq_lens),
    }


def test_packed_stacks_and_adds_the_mask():
    batch = padded_collate_packed([_pack([2, 2]), _pack([4])])
    # Exactly the arguments of a decoder's forward, and the labels: recipes pass a batch on as it is.
    assert list(batch) == ["tokens", "labels", "input_pos", "mask"]
    assert batch["input_pos"].tolist() == [[0, 1, 0, 1], [0, 1, 2, 3]]
    assert batch["mask"].sum(-1).tolist() == [[1, 2, 1, 2], [1, 2, 3, 4]]


def test_packed_refuses_two_lengths():
    with pytest.raises(DataError, match=r"\[3, 4\]"):
        padded_collate_packed([_pack([2, 2]), _pack([3])])


def test_cuts_say_the_same_as_the_mask():
    packs = [_pack([2, 2]), _pack([4])]
    cut, masked = collate_packs(packs), padded_collate_packed(packs)
    assert cut["mask"].to(torch.device("cpu")) is cut["mask"]
    assert cut["mask"].lengths == ((2, 2), (4,))
    assert torch.equal(cut["mask"].mask(torch.device("cpu")), masked["mask"])
    assert all(torch.equal(cut[key], masked[key]) for key in ("tokens", "labels", "input_pos"))
