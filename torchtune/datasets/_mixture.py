"""Several datasets mixed by weight."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

from torch.utils.data import Dataset

from torchtune.data._order import MixtureOrder
from torchtune.data._stream import Order, Position, SampleStream, Streamed
from torchtune.datasets._concat import ConcatDataset
from torchtune.errors import ConfigError, DataError

STOPS = ("first_exhausted", "all_exhausted")
_DRAWN_AT_ONCE = 1024


class MixtureDataset(ConcatDataset):
    """The samples of all the datasets by number, of which an epoch takes as many from each as its weight says.

    Args:
        weights: shares of the samples (packs, when packed); they need not add up to 1
        stop: ``first_exhausted``: an epoch is as long as no dataset has to give a sample twice; ``all_exhausted``: as
            long as every dataset gives each of its samples, so that those with few give theirs several times

    Raises:
        ConfigError: a weight or ``stop`` is wrong, or some of the datasets are packed and some are not
    """

    def __init__(self, datasets: list[Dataset], weights: Sequence[float], stop: str = "all_exhausted") -> None:
        super().__init__(datasets)
        self._weights, self._stop = _checked(datasets, weights, stop)

    def epoch_order(self, *, seed: int, shuffle: bool, lengths: Sequence[int] | None = None) -> MixtureOrder:
        """Which samples an epoch has, in their order, when the datasets are so long (None: as they are)."""
        lengths = lengths or list(map(len, self.datasets))
        return MixtureOrder(lengths, self._weights, every=self._stop == "all_exhausted", seed=seed, shuffle=shuffle)

    def fingerprint(self) -> str:
        """Changes with any of the datasets, their order, their weights and the rule."""
        return hashlib.sha256(f"{super().fingerprint()} {self._weights} {self._stop}".encode()).hexdigest()


class MixtureStream:
    """A stream that draws each sample from one of the streams, by weight.

    Args:
        weights: how likely each is drawn; they need not add up to 1
        stop: an epoch ends ``first_exhausted``: when the stream that is drawn has come to its end; ``all_exhausted``:
            when each has been found at its end once; one that is drawn again begins anew

    Raises:
        ConfigError: a weight or ``stop`` is wrong, or some of the streams are packed and some are not
    """

    streaming = True

    def __init__(self, datasets: list[SampleStream], weights: Sequence[float], stop: str = "all_exhausted") -> None:
        self._weights, self._stop = _checked(datasets, weights, stop)
        self.datasets, self.packed = datasets, ConcatDataset(datasets).packed

    def samples(self, order: Order, at: Position | None = None) -> Iterator[Streamed]:
        """The samples behind a position: how many were drawn; of each stream its passes, place and whether it ended."""
        many = len(self.datasets)
        start, passes, places, ended = at or (0, [0] * many, [None] * many, [False] * many)
        passes, places, ended = list(passes), list(places), list(ended)
        sources = [self._open(order, number, passes[number], places[number]) for number in range(many)]
        for drawn, number in enumerate(self._draws(order, start), start + 1):
            found = next(sources[number], None)
            if found is None:
                ended[number] = True
                if self._stop == "first_exhausted" or all(ended):
                    return
                passes[number] += 1
                sources[number] = self._open(order, number, passes[number])
                found = next(sources[number], None)
            if found is None:
                raise DataError(f"dataset[{number}] of the mixture has no sample")
            places[number] = found.position
            yield Streamed(found.make, [drawn, list(passes), list(places), list(ended)])

    def fingerprint(self) -> str:
        """Changes with any of the streams, their order, their weights and the rule."""
        parts = [stream.fingerprint() for stream in self.datasets]
        return hashlib.sha256(f"{parts} {self._weights} {self._stop}".encode()).hexdigest()

    def _open(self, order: Order, number: int, turn: int, at: Position | None = None) -> Iterator[Streamed]:
        return self.datasets[number].samples(order.below(number, turn), at)

    def _draws(self, order: Order, start: int) -> Iterator[int]:
        """Which stream each sample from number ``start`` on is from."""
        block, skip = divmod(start, _DRAWN_AT_ONCE)
        while True:
            drawn = order.generator(block).choice(len(self._weights), _DRAWN_AT_ONCE, p=self._weights)
            yield from drawn[skip:].tolist()
            block, skip = block + 1, 0


def _checked(datasets: Sequence[Any], weights: Sequence[float], stop: str) -> tuple[list[float], str]:
    """The weights so that they add up to 1, and the rule."""
    if len(weights) != len(datasets) or not all(map(_is_weight, weights)):
        raise ConfigError(
            f"a mixture of {len(datasets)} datasets needs as many weights above 0, each a finite number, "
            f"found {list(weights)}"
        )
    if stop not in STOPS:
        raise ConfigError(f"mixture_stop is {stop!r}; it must be one of {', '.join(STOPS)}")
    return [weight / sum(weights) for weight in weights], stop


def _is_weight(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < value < math.inf
