"""Streams: samples that come one after the other, have no numbers, and can be taken up again at any of them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

Position = list[Any]
"""Where a stream has come to, as JSON: whole numbers and lists of them, None for a beginning."""


class Order(NamedTuple):
    """Which of its orders a stream comes in: whoever has the same key draws the same numbers.

    Args:
        key: whole numbers of at least 0, such as the seed and the epoch
        shuffle: False: the order in which the data is stored
    """

    key: tuple[int, ...]
    shuffle: bool

    @classmethod
    def of_epoch(cls, seed: int, epoch: int, shuffle: bool) -> "Order":
        """The order of an epoch."""
        return cls((seed % 2**63, epoch), shuffle)

    def below(self, *key: int) -> "Order":
        """An order of its own for a part of the stream."""
        return Order((*self.key, *key), self.shuffle)

    def generator(self, *key: int) -> np.random.Generator:
        """Random numbers that depend on nothing but the keys."""
        return np.random.default_rng((*self.key, *key))


class Streamed(NamedTuple):
    """A sample that is made only where it is wanted, and the position behind it."""

    make: Callable[[], Any]
    position: Position


class SampleStream(Protocol):
    """What a stream offers; ``packed`` says whether its samples are packs."""

    streaming: bool
    packed: bool

    def samples(self, order: Order, at: Position | None = None) -> Iterator[Streamed]:
        """The samples behind a position, or from the beginning; the same for the same order.

        Raises:
            DataError: the data cannot be read
        """

    def fingerprint(self) -> str:
        """Changes with what is read, as far as that can be told without reading it all."""
