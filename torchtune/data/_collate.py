"""Batches: lists of samples become tensors of one shape.

A batch is a dict of tensors; ``B`` is the number of rows and ``S`` their common length:

- ``tokens`` ``[B, S]`` int64: token ids, padded at the end;
- ``labels`` ``[B, S]`` int64: the same ids where they are trained on, -100 elsewhere. They are NOT shifted:
  ``labels[:, i]`` belongs to ``tokens[:, i]``, and the recipe drops the first label and appends a -100, once;
- ``input_pos`` ``[B, S]`` int64, only when packed: the position of each token in its own document;
- ``mask`` ``[B, S, S]`` bool, only when packed: True where the row's token may look at the column's; or
  :class:`~torchtune.modules.attention_utils.Documents`, which says the same by where documents are cut.

The label of the first token of every packed document is -100, so the one shift never asks a document's last token to
predict the beginning of the next.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from torchtune.data._packing import block_causal_mask
from torchtune.errors import ConfigError, DataError
from torchtune.modules.attention_utils import Documents

CROSS_ENTROPY_IGNORE_IDX = -100  # torch.nn.functional.cross_entropy's default ignore_index


def left_pad_sequence(sequences: list[Tensor], batch_first: bool = False, padding_value: float = 0) -> Tensor:
    """Sequences of different lengths as one tensor, padded at the front: ``[B, S, ...]``, or ``[S, B, ...]``."""
    return pad_sequence(sequences, batch_first=batch_first, padding_value=padding_value, padding_side="left")


def padded_collate(
    batch: list[dict[str, list[int]]],
    *,
    pad_direction: str,
    keys_to_pad: list[str],
    padding_idx: int | dict[str, int],
    pad_to_multiple_of: int = 1,
    stack_on_new_dim: bool = False,
) -> dict[str, Tensor]:
    """Some entries padded, each to its own longest length; the others made tensors as they are.

    Args:
        pad_direction: "left" or "right"
        padding_idx: one value, or one for each key of ``keys_to_pad``
        stack_on_new_dim: entries that are tensors already and are not padded get a batch dimension of their own
            instead of being joined along their first one
    """
    if pad_direction not in ("left", "right"):
        raise ConfigError(f"pad_direction is {pad_direction!r}; it must be 'left' or 'right'")
    fills = _fill_values(batch[0], keys_to_pad, padding_idx)
    collated = {
        key: _plain([sample[key] for sample in batch], stack_on_new_dim) for key in batch[0] if key not in fills
    }
    for key, fill in fills.items():
        rows = [sample[key] for sample in batch]
        collated[key] = _pad_as_they_are(rows, fill, _width(rows, pad_to_multiple_of), pad_direction)
    return collated


def padded_collate_sft(
    batch: list[dict[str, Any]],
    padding_idx: int = 0,
    ignore_idx: int = -100,
    pad_to_multiple_of: int = 1,
    stack_on_new_dim: bool = False,
    cp_degree: int = 1,
) -> dict[str, Tensor]:
    """Samples with ``tokens`` and ``labels`` as one batch, padded at the end to the longest.

    Args:
        stack_on_new_dim: concerns image tensors; a batch of text has none
        cp_degree: context-parallel processes; above 1 the batch has ``input_pos`` too, which says where the slice
            that a process gets lies in the sequence
    """
    if "encoder_input" in batch[0]:
        raise ConfigError("padded_collate_sft makes batches of text, and these samples carry images (`encoder_input`)")
    tokens = [sample["tokens"] for sample in batch]
    labels = [sample["labels"] for sample in batch]
    width = _width(tokens + labels, pad_to_multiple_of)
    collated = {"tokens": _pad(tokens, padding_idx, width), "labels": _pad(labels, ignore_idx, width)}
    if cp_degree > 1:
        collated["input_pos"] = torch.arange(width).expand(len(batch), width).contiguous()
    return collated


def padded_collate_packed(batch: list[dict[str, Tensor | list[int]]]) -> dict[str, Tensor]:
    """Packs of one length as one batch, with the mask that keeps each token to its own document."""
    collated = {key: _stack([pack[key] for pack in batch]) for key in ("tokens", "labels", "input_pos")}
    collated["mask"] = block_causal_mask([torch.as_tensor(pack["seq_lens"]) for pack in batch])
    return collated


def collate_packs(batch: list[dict[str, Tensor | list[int]]]) -> dict[str, Tensor | Documents]:
    """As :func:`padded_collate_packed`, but ``mask`` says where the documents are cut instead of who sees whom."""
    collated = {key: _stack([pack[key] for pack in batch]) for key in ("tokens", "labels", "input_pos")}
    collated["mask"] = Documents(tuple(tuple(map(int, pack["seq_lens"])) for pack in batch))
    return collated


def padded_collate_dpo(
    batch: list[dict[str, list[int]]],
    padding_idx: int = 0,
    ignore_idx: int = -100,
    pad_to_multiple_of: int = 1,
) -> tuple[Tensor, Tensor]:
    """Pairs of answers as ids and labels ``[2B, S]``: the chosen answers first, then the rejected ones."""
    ids = [sample[f"{side}_input_ids"] for side in ("chosen", "rejected") for sample in batch]
    labels = [sample[f"{side}_labels"] for side in ("chosen", "rejected") for sample in batch]
    width = _width(ids + labels, pad_to_multiple_of)
    return _pad(ids, padding_idx, width), _pad(labels, ignore_idx, width)


def _fill_values(
    sample: Mapping[str, Any], keys_to_pad: list[str], padding_idx: int | dict[str, int]
) -> dict[str, int]:
    if not isinstance(keys_to_pad, list) or not keys_to_pad:
        raise ConfigError(f"keys_to_pad must be a list with at least one key, found {keys_to_pad!r}")
    absent = [key for key in keys_to_pad if key not in sample]
    if absent:
        raise ConfigError(f"keys_to_pad names {absent}, and the samples have {sorted(sample)}")
    if not isinstance(padding_idx, Mapping):
        return dict.fromkeys(keys_to_pad, padding_idx)
    if set(padding_idx) != set(keys_to_pad):
        raise ConfigError(f"padding_idx has the keys {sorted(padding_idx)} and keys_to_pad {sorted(keys_to_pad)}")
    return {key: padding_idx[key] for key in keys_to_pad}


def _width(rows: Sequence[Sequence[int]], multiple: int) -> int:
    if multiple < 1:
        raise ConfigError(f"pad_to_multiple_of is {multiple}; it must be at least 1")
    return -(-max(map(len, rows)) // multiple) * multiple


def _pad(rows: Sequence[Sequence[int]], fill: int, width: int) -> Tensor:
    # Through numpy: five times as fast as torch.tensor on nested lists.
    padded = np.full((len(rows), width), fill, dtype=np.int64)
    for line, row in zip(padded, rows):
        line[: len(row)] = row
    return torch.from_numpy(padded)


def _pad_as_they_are(rows: Sequence[Sequence[Any]], fill: float, width: int, side: str) -> Tensor:
    """Whole numbers, fractions or flags, ``[B, width, ...]``; a row without entries has no say in which they are."""
    found = [torch.as_tensor(row) for row in rows]
    dtype = reduce(torch.promote_types, [row.dtype for row in found if len(row)] or [torch.int64])
    padded = pad_sequence([row.to(dtype) for row in found], True, fill, padding_side=side)
    more = padded.new_full((len(rows), width - padded.shape[1], *padded.shape[2:]), fill)
    return torch.cat([more, padded] if side == "left" else [padded, more], dim=1)


def _plain(values: list[Any], stack: bool) -> Tensor:
    if isinstance(values[0], Tensor) and values[0].ndim:
        return torch.stack(values) if stack else torch.cat(values)
    return torch.tensor(values)


def _stack(rows: list[Tensor | list[int]]) -> Tensor:
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise DataError(f"packs of different lengths {sorted(lengths)} in one batch; use one max_seq_len for all")
    return torch.stack([torch.as_tensor(row) for row in rows])
