"""Packs: documents tokenised once into flat memory and laid side by side in rows of one length."""

import hashlib
import logging
import os
import sys
from array import array
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from torchtune.data._collate import CROSS_ENTROPY_IGNORE_IDX
from torchtune.data._packing import best_fit_decreasing, cut_at_capacity
from torchtune.errors import ConfigError, DataError

_log = logging.getLogger(__name__)


class PackedDataset(Dataset):
    """A dataset whose samples are shared out over packs of ``max_seq_len`` tokens, with 8 bytes of memory per token.

    A pack is a dict of ``tokens``, ``labels`` and ``input_pos`` ``[max_seq_len]`` and ``seq_lens``, the lengths of its
    documents; padding at the end counts as one more document. Positions begin at 0 in each document, and the first
    label of each is -100. Samples without a target are left out. Every process makes the same packs.

    Args:
        ds: samples with ``tokens`` and ``labels``
        padding_idx: the token id in the room that is left
        max_packs: stop after so many packs; None packs everything
        split_across_pack: lay the documents end to end in their order and cut them where a pack is full; otherwise
            each document stays whole and packs are filled as well as possible (best fit, longest first)

    Raises:
        DataError: a sample is longer than a pack and may not be cut, or no sample has a target
    """

    def __init__(
        self,
        ds: Dataset,
        *,
        max_seq_len: int,
        padding_idx: int = 0,
        max_packs: int | None = None,
        split_across_pack: bool = False,
    ) -> None:
        for name, value in (("max_seq_len", max_seq_len), ("max_packs", max_packs)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        self.max_seq_len, self.padding_idx = max_seq_len, padding_idx
        limit = None if max_packs is None else max_packs * max_seq_len
        longest = None if split_across_pack else max_seq_len
        self._tokens, self._labels, lengths = _flatten(ds, longest, limit)
        self._starts, self._stops, pack_of = _pieces(lengths, max_seq_len, split_across_pack)
        # Documents sorted by pack; those of pack p are _documents[_first[p] : _first[p + 1]].
        self._documents = np.argsort(pack_of, kind="stable")
        num_packs = int(pack_of.max()) + 1
        self._first = np.searchsorted(pack_of[self._documents], np.arange(num_packs + 1))
        self._num_packs = num_packs if max_packs is None else min(num_packs, max_packs)
        _log.info(
            "packed %d samples, %d tokens, into %d packs of %d: %.1f %% filled",
            len(lengths), len(self._tokens), num_packs, max_seq_len, 100 * len(self._tokens) / num_packs / max_seq_len,
        )  # fmt: skip

    def __len__(self) -> int:
        return self._num_packs

    def __getitem__(self, idx: int) -> dict[str, Tensor]:
        if not -len(self) <= idx < len(self):
            raise IndexError(f"pack {idx} of {len(self)}")
        idx %= len(self)
        tokens = np.full(self.max_seq_len, self.padding_idx, dtype=np.int64)
        labels = np.full(self.max_seq_len, CROSS_ENTROPY_IGNORE_IDX, dtype=np.int64)
        lengths, at = [], 0
        for document in self._documents[self._first[idx] : self._first[idx + 1]]:
            start, stop = self._starts[document], self._stops[document]
            length = int(stop - start)
            tokens[at : at + length] = self._tokens[start:stop]
            labels[at + 1 : at + length] = self._labels[start + 1 : stop]  # nothing in this document predicts its first
            lengths.append(length)
            at += length
        if at < self.max_seq_len:
            lengths.append(self.max_seq_len - at)
        return {
            "tokens": torch.from_numpy(tokens),
            "labels": torch.from_numpy(labels),
            "input_pos": torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
            "seq_lens": torch.tensor(lengths),
        }

    def fingerprint(self) -> str:
        """Changes with any token or label, and with how they are packed."""
        content = hashlib.sha256(f"{self.max_seq_len} {len(self)}".encode())
        for values in (self._tokens, self._labels, self._starts, self._documents, self._first):
            content.update(np.ascontiguousarray(values).data)
        return content.hexdigest()


def pack_to_fit(ds: Dataset, tokenizer: Any) -> PackedDataset:
    """The dataset in packs as long as the tokenizer's longest sequence."""
    max_seq_len = getattr(tokenizer, "max_seq_len", None)
    if max_seq_len is None:
        raise ConfigError("dataset.packed: True needs tokenizer.max_seq_len, which is the length of a pack")
    return PackedDataset(ds, max_seq_len=max_seq_len, padding_idx=getattr(tokenizer, "pad_id", 0))


def _flatten(ds: Dataset, longest: int | None, limit: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All tokens and all labels in one row each (int32), and the length of each sample that has a target.

    Args:
        longest: refuse longer samples
        limit: stop at so many tokens
    """
    tokens, labels, lengths = array("i"), array("i"), array("q")
    dropped = 0
    if not _shows_progress():
        _log.info("tokenising and packing %d samples", len(ds))
    for index in tqdm(range(len(ds)), desc="Packing", disable=not _shows_progress()):
        sample = ds[index]
        ids, targets = (np.asarray(sample[key], dtype=np.int32) for key in ("tokens", "labels"))
        if len(ids) != len(targets):
            raise DataError(f"sample {index} has {len(ids)} tokens and {len(targets)} labels; expected as many of both")
        if longest is not None and len(ids) > longest:
            raise DataError(
                f"sample {index} has {len(ids)} tokens and a pack holds {longest}. Set tokenizer.max_seq_len to "
                "shorten samples, raise max_seq_len, or set split_across_pack: True"
            )
        if not (targets[1:] != CROSS_ENTROPY_IGNORE_IDX).any():
            dropped += 1
            continue
        tokens.frombytes(ids.tobytes())
        labels.frombytes(targets.tobytes())
        lengths.append(len(ids))
        if limit is not None and len(tokens) >= limit:
            break
    if dropped:
        _log.warning("left out %d of %d samples: they have no token to train on", dropped, len(ds))
    if not lengths:
        raise DataError(
            f"none of the {len(ds)} samples has a token to train on; they may be all prompt after being cut to "
            "tokenizer.max_seq_len, or wholly masked (train_on_input: False)"
        )
    return np.frombuffer(tokens, np.int32), np.frombuffer(labels, np.int32), np.frombuffer(lengths, np.int64)


def _pieces(lengths: np.ndarray, capacity: int, split: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, stop and pack of every document, or of every piece of one."""
    if split:
        starts, stops = cut_at_capacity(lengths, capacity)
        return starts, stops, starts // capacity
    stops = np.cumsum(lengths)
    return stops - lengths, stops, best_fit_decreasing(lengths, capacity)


def _shows_progress() -> bool:
    return sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
