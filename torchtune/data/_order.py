"""Which samples an epoch has and in which order: a function of the seed and the epoch, whatever the process count."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

_EPOCH_STRIDE = 1_000_003  # a prime, so that neighbouring seeds and epochs do not share permutations in practice
_STEPS_GROUPED = 50  # more make samples of a step more alike in length, and steps less alike


class SampleOrder(Protocol):
    """The order of samples, ``length`` in each epoch."""

    length: int

    def indices(self, epoch: int) -> torch.Tensor:
        """Sample numbers in the order of this epoch, ``[length]`` int64."""


class EpochOrder:
    """Every sample once; draws nothing from the global random state."""

    def __init__(self, length: int, *, seed: int, shuffle: bool) -> None:
        self.length, self.seed, self.shuffle = length, seed, shuffle

    def indices(self, epoch: int) -> torch.Tensor:
        if not self.shuffle:
            return torch.arange(self.length)
        return torch.randperm(self.length, generator=_generator(self.seed, epoch))


class MixtureOrder:
    """Samples of several datasets laid end to end, of each as many as its weight says, evenly mixed.

    Args:
        lengths: samples of each dataset, all above 0
        weights: shares of the epoch; they add up to 1
        every: False: the epoch is as long as no sample has to come twice; True: as long as each has to come at least
            once
    """

    def __init__(
        self, lengths: Sequence[int], weights: Sequence[float], *, every: bool, seed: int, shuffle: bool
    ) -> None:
        self.lengths, self.seed, self.shuffle = list(lengths), seed, shuffle
        whole = (max if every else min)(length / weight for length, weight in zip(lengths, weights))
        bound = max if every else min
        shares = [max(1, round(whole * weight)) for weight in weights]  # none is left out, however small its weight
        self.counts = [bound(share, length) for share, length in zip(shares, lengths)]
        self.length = sum(self.counts)

    def indices(self, epoch: int) -> torch.Tensor:
        found = torch.empty(self.length, dtype=torch.int64)
        sources, start = self._sources(epoch), 0
        for number, (length, count) in enumerate(zip(self.lengths, self.counts)):
            found[sources == number] = start + self._of_one(length, count, epoch, number)
            start += length
        return found

    def _sources(self, epoch: int) -> torch.Tensor:
        """Which dataset each place of the epoch is filled from."""
        sources = torch.repeat_interleave(torch.tensor(self.counts))
        if self.shuffle:
            return sources[torch.randperm(self.length, generator=_generator(self.seed, epoch, len(self.counts)))]
        places = torch.cat([(torch.arange(count) + 0.5) / count for count in self.counts])
        return sources[places.argsort(stable=True)]

    def _of_one(self, length: int, count: int, epoch: int, number: int) -> torch.Tensor:
        """Numbers in one dataset: all of it as often as it takes, each time in a new order."""
        if not self.shuffle:
            return torch.arange(count) % length
        generator = _generator(self.seed, epoch, number)
        passes = [torch.randperm(length, generator=generator) for _ in range(-(-count // length))]
        return torch.cat(passes)[:count]


class LengthGroupedOrder:
    """Another order in which samples of like length meet in a step, while the steps come in no order of length.

    The steps are made of stretches of that order: the samples of some steps are sorted by length, longest first, cut
    into steps, and these shuffled.

    Args:
        lengths: tokens of every sample of the dataset
    """

    def __init__(self, order: SampleOrder, lengths: np.ndarray, samples_per_step: int, *, seed: int) -> None:
        self.length, self._order, self._seed = order.length, order, seed
        self._lengths, self._per_step = torch.from_numpy(np.asarray(lengths)), samples_per_step

    def indices(self, epoch: int) -> torch.Tensor:
        order = self._order.indices(epoch)
        generator = _generator(self._seed, epoch, 1)
        whole = self.length // self._per_step * self._per_step
        stretches = order[:whole].split(_STEPS_GROUPED * self._per_step)
        return torch.cat([*(self._grouped(stretch, generator) for stretch in stretches), order[whole:]])

    def _grouped(self, stretch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        steps = stretch[self._lengths[stretch].argsort(descending=True, stable=True)].view(-1, self._per_step)
        return steps[torch.randperm(len(steps), generator=generator)].flatten()


def _generator(seed: int, epoch: int, stream: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed((seed * _EPOCH_STRIDE + epoch + stream * _EPOCH_STRIDE**3) % 2**63)
