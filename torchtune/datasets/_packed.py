"""Packs: documents laid side by side in rows of one length."""

import copy
import hashlib
import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchtune.data._collate import CROSS_ENTROPY_IGNORE_IDX
from torchtune.data._packing import best_fit_decreasing, cut_at_capacity, next_fit
from torchtune.datasets._prepare import Preparation, tokenised
from torchtune.datasets._token_table import TokenTable
from torchtune.errors import ConfigError, DataError

_log = logging.getLogger(__name__)

STRATEGIES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"best_fit": best_fit_decreasing, "greedy": next_fit}


class PackedDataset(Dataset):
    """A dataset whose samples are shared out over packs of ``max_seq_len`` tokens.

    A pack is a dict of ``tokens``, ``labels`` and ``input_pos`` ``[max_seq_len]`` and ``seq_lens``, the lengths of its
    documents; padding at the end counts as one more document. Positions begin at 0 in each document, and the first
    label of each is -100, since nothing before it predicts it. Samples without a target are left out. Every process
    makes the same packs.

    Args:
        ds: samples with ``tokens`` and ``labels``
        padding_idx: the token id in the room that is left
        max_packs: stop after so many packs; None packs everything
        split_across_pack: lay the documents end to end in their order and cut them where a pack is full; the piece
            behind a cut is a document of its own, so its first token is read and not learnt. Otherwise each document
            stays whole
        strategy: how whole documents are put into packs: ``best_fit`` fills packs as well as possible (longest first),
            ``greedy`` keeps the order of the dataset and begins a new pack when a document does not fit, as torchtune

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
        strategy: str = "best_fit",
    ) -> None:
        for name, value in (("max_seq_len", max_seq_len), ("max_packs", max_packs)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        if strategy not in STRATEGIES:
            raise ConfigError(f"strategy is {strategy!r}; it must be one of {', '.join(STRATEGIES)}")
        self.ds, self.max_seq_len, self.padding_idx = ds, max_seq_len, padding_idx
        self.max_packs, self.split_across_pack, self.strategy = max_packs, split_across_pack, strategy
        self._packs: _Packs | None = None

    def over(self, ds: Dataset) -> "PackedDataset":
        """Other samples, packed in the same way."""
        other = copy.copy(self)
        other.ds, other._packs = ds, None
        return other

    def prepare(self, how: Preparation) -> None:
        """Tokenise and pack now."""
        if self._packs is None:
            self._packs = self._pack(self._tokenised(how))
            if how.is_main:
                self._say(self._packs)

    @property
    def packs(self) -> "_Packs":
        """The packs, made now if they are not there yet."""
        if self._packs is None:
            self.prepare(Preparation(workers=0))
        return self._packs

    def _tokenised(self, how: Preparation) -> TokenTable:
        if self.max_packs is not None:
            return tokenised(self.ds, how, most_tokens=self.max_packs * self.max_seq_len)
        if hasattr(self.ds, "prepare"):
            self.ds.prepare(how)
            if getattr(self.ds, "table", None) is not None:
                return self.ds.table
        return tokenised(self.ds, how)

    def _pack(self, table: TokenTable) -> "_Packs":
        if not self.split_across_pack:
            self._check_longest(table.lengths)
        documents = np.flatnonzero(table.targets)
        if not len(documents):
            raise DataError(
                f"none of the {len(table)} samples has a token to train on; they may be all prompt after being cut to "
                "tokenizer.max_seq_len, or wholly masked (train_on_input: False)"
            )
        if len(documents) < len(table):
            dropped = len(table) - len(documents)
            _log.warning("left out %d of %d samples: they have no token to train on", dropped, len(table))
        lengths = table.lengths[documents]
        starts, stops, pack_of = self._pieces(lengths)
        # Where the pieces lie in the table, which has the samples that were left out as well.
        ends = np.cumsum(lengths)
        shift = (table.ends[documents] - ends)[np.searchsorted(ends, starts, side="right")]
        return _Packs(table, starts + shift, stops + shift, pack_of, self.max_packs)

    def _pieces(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start, stop and pack of every document laid end to end, or of every piece of one."""
        if self.split_across_pack:
            starts, stops = cut_at_capacity(lengths, self.max_seq_len)
            return starts, stops, starts // self.max_seq_len
        stops = np.cumsum(lengths)
        return stops - lengths, stops, STRATEGIES[self.strategy](lengths, self.max_seq_len)

    def _check_longest(self, lengths: np.ndarray) -> None:
        longer = np.flatnonzero(lengths > self.max_seq_len)
        if len(longer):
            raise DataError(
                f"sample {longer[0] + 1} has {lengths[longer[0]]} tokens and a pack holds {self.max_seq_len}; so it is "
                f"with {len(longer)} of {len(lengths)} samples. Set tokenizer.max_seq_len to shorten samples, raise "
                "max_seq_len, or set split_across_pack: True"
            )

    def _say(self, packs: "_Packs") -> None:
        tokens, room = packs.num_tokens, len(packs) * self.max_seq_len
        _log.info(
            "packed %d tokens into %d packs of %d: %.1f %% filled",
            tokens,
            len(packs),
            self.max_seq_len,
            100 * tokens / room,
        )

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, idx: int) -> dict[str, Tensor]:
        if not -len(self) <= idx < len(self):
            raise IndexError(f"pack {idx} of {len(self)}")
        table = self.packs.table
        tokens = np.full(self.max_seq_len, self.padding_idx, dtype=np.int64)
        labels = np.full(self.max_seq_len, CROSS_ENTROPY_IGNORE_IDX, dtype=np.int64)
        lengths, at = [], 0
        for start, stop in self.packs.documents(idx % len(self)):
            length = stop - start
            tokens[at : at + length] = table.tokens[start:stop]
            trained = table.trained[start + 1 : stop]  # nothing in this document predicts its first
            labels[at + 1 : at + length] = np.where(trained, tokens[at + 1 : at + length], CROSS_ENTROPY_IGNORE_IDX)
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
        return hashlib.sha256(f"{self.max_seq_len} {self.packs.fingerprint()}".encode()).hexdigest()


class _Packs:
    """Which pieces of a table lie in which pack."""

    def __init__(
        self, table: TokenTable, starts: np.ndarray, stops: np.ndarray, pack_of: np.ndarray, most: int | None
    ) -> None:
        self.table = table
        order = np.argsort(pack_of, kind="stable")
        count = int(pack_of.max()) + 1
        self._starts, self._stops = starts[order], stops[order]
        # The pieces of pack p are those from _first[p] to _first[p + 1].
        self._first = np.searchsorted(pack_of[order], np.arange(count + 1))
        self._count = count if most is None else min(count, most)

    def __len__(self) -> int:
        return self._count

    @property
    def num_tokens(self) -> int:
        """Tokens in all packs together."""
        last = self._first[self._count]
        return int((self._stops[:last] - self._starts[:last]).sum())

    def documents(self, pack: int) -> list[tuple[int, int]]:
        """Start and end of each piece of a pack in the table."""
        here = slice(self._first[pack], self._first[pack + 1])
        return list(zip(self._starts[here].tolist(), self._stops[here].tolist()))

    def fingerprint(self) -> str:
        """Changes with any token or label and with the packing."""
        content = hashlib.sha256(f"{self.table.fingerprint()} {len(self)}".encode())
        for values in (self._starts, self._stops, self._first):
            content.update(np.ascontiguousarray(values).data)
        return content.hexdigest()
