"""Packs of a stream: as many samples at a time as fill some packs are tokenised and packed together."""

import hashlib
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from torchtune.data._collate import CROSS_ENTROPY_IGNORE_IDX
from torchtune.data._stream import Order, Position, SampleStream, Streamed
from torchtune.datasets._packed import PackedDataset
from torchtune.datasets._prepare import Preparation
from torchtune.errors import ConfigError

_log = logging.getLogger(__name__)

_PACKS_AT_ONCE = 128  # more leave less room in the last of them, and take longer to begin


class PackedStream:
    """A stream whose samples are shared out over packs, as those of a :class:`~torchtune.datasets.PackedDataset` are.

    Args:
        ds: samples with ``tokens`` and ``labels``
        max_seq_len, padding_idx, split_across_pack, strategy: see there
    """

    streaming = packed = True

    def __init__(
        self,
        ds: SampleStream,
        *,
        max_seq_len: int,
        padding_idx: int = 0,
        split_across_pack: bool = False,
        strategy: str = "best_fit",
    ) -> None:
        self.ds, self.max_seq_len = ds, max_seq_len
        self._pack = partial(
            PackedDataset,
            max_seq_len=max_seq_len,
            padding_idx=padding_idx,
            split_across_pack=split_across_pack,
            strategy=strategy,
        )
        self.packer = self._pack([])  # says what is wrong with the arguments
        self._left_out = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (found.make() for found in self.samples(Order((), shuffle=False)))

    def samples(self, order: Order, at: Position | None = None) -> Iterator[Streamed]:
        """The packs behind a position: where the samples that are packed together begin, and packs given of them."""
        begin, given = at or (None, 0)
        samples = self.ds.samples(order, begin)
        while True:
            together, end = self._take(samples)
            if not together:
                return
            packs = self._pack(together)
            packs.prepare(Preparation(workers=0, is_main=False))
            for number in range(given, len(packs)):
                yield Streamed(partial(packs.__getitem__, number), [begin, number + 1])
            begin, given = end, 0

    def fingerprint(self) -> str:
        """Changes with what is read and with how it is packed."""
        arguments = sorted(self._pack.keywords.items())
        return hashlib.sha256(f"{self.ds.fingerprint()} {arguments} {_PACKS_AT_ONCE}".encode()).hexdigest()

    def _take(self, samples: Iterator[Streamed]) -> tuple[list[dict[str, Any]], Position | None]:
        """Samples that fill some packs, all with a target; and the position behind them."""
        found, tokens, end = [], 0, None
        for streamed in samples:
            sample, end = streamed.make(), streamed.position
            if not _has_target(sample):
                self._leave_out()
                continue
            found.append({name: sample[name] for name in ("tokens", "labels")})
            tokens += len(sample["tokens"])
            if tokens >= _PACKS_AT_ONCE * self.max_seq_len:
                break
        return found, end

    def _leave_out(self) -> None:
        self._left_out += 1
        if self._left_out.bit_count() == 1:  # the first, the second, the fourth, ...
            _log.warning("left out %d sample(s) of the stream so far: no token to train on", self._left_out)


def pack_to_fit(
    ds: Dataset,
    tokenizer: Any,
    packed: bool | str,
    max_seq_len: int | None = None,
    *,
    split_across_pack: bool = False,
) -> Dataset | PackedDataset | PackedStream:
    """The dataset in packs of ``max_seq_len`` tokens, or else as long as the tokenizer's longest sequence.

    Args:
        packed: the strategy of :class:`PackedDataset`; True is its default, False leaves the dataset as it is
        split_across_pack: see there; then a sample may be longer than a pack, and is not cut before

    Raises:
        ConfigError: nothing says how long a pack is, or the strategy is unknown
    """
    if not packed:
        return ds
    length = max_seq_len or getattr(tokenizer, "max_seq_len", None)
    if length is None:
        raise ConfigError("dataset.packed: True needs tokenizer.max_seq_len, which is the length of a pack")
    if split_across_pack and hasattr(ds, "uncut"):
        ds = ds.uncut()
    kind = PackedStream if getattr(ds, "streaming", False) else PackedDataset
    padding_idx = getattr(tokenizer, "pad_id", 0)
    options = {} if packed is True else {"strategy": packed}
    return kind(ds, max_seq_len=length, padding_idx=padding_idx, split_across_pack=split_across_pack, **options)


def _has_target(sample: dict[str, Any]) -> bool:
    """Whether some token but the first, which none predicts, is trained on."""
    return bool((np.asarray(sample["labels"])[1:] != CROSS_ENTROPY_IGNORE_IDX).any())
