"""Steps from a stream: every process reads the same samples in the same order and makes batches of its own ones."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from torchtune.data._loader import Batch, Collate, leave_stopping_to_training
from torchtune.data._stream import Order, Position, SampleStream
from torchtune.errors import ConfigError, DataError

TOO_SHORT = "the stream has fewer samples (packs, when packed) than a step: {}"


class StreamLoader:
    """What :class:`~torchtune.data.StepLoader` is for a dataset, for a stream: the same groups of samples per step.

    Samples at the end of an epoch that do not fill a step are left out. The number of steps of an epoch is not known.

    Args:
        batch_size: samples per micro-batch and process
        gradient_accumulation_steps: micro-batches per step
        num_workers: 1: a process prepares batches ahead of time; 0: this one makes them. The batches are the same.

    Raises:
        ConfigError: ``num_workers`` is more than 1
    """

    steps_per_epoch: int | None = None

    def __init__(
        self,
        stream: SampleStream,
        *,
        batch_size: int,
        collate_fn: Collate,
        seed: int,
        shuffle: bool,
        gradient_accumulation_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if num_workers > 1:
            raise ConfigError(f"num_workers is {num_workers}; a stream is read by one process: set it to 1, or to 0")
        self.seed, self.shuffle, self.accumulation = seed, shuffle, gradient_accumulation_steps
        self.samples_per_step = batch_size * world_size * gradient_accumulation_steps
        self._batches = _Batches(stream, collate_fn, batch_size, rank, world_size)
        self._options = {
            "num_workers": num_workers,
            "pin_memory": pin_memory,
            "batch_size": None,
            "worker_init_fn": leave_stopping_to_training,
        }
        self._epoch = self._step = 0
        self._position: Position | None = None

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[list[Batch]]:
        """The remaining steps of an epoch: for each step this process's micro-batches, in order.

        Raises:
            DataError: the stream ends before its first step
        """
        is_known = (self._epoch, self._step) == (epoch, start_step)
        position, step = (self._position, start_step) if is_known else (None, 0)
        self._batches.begin(Order.of_epoch(self.seed, epoch, self.shuffle), position)
        generator = torch.Generator().manual_seed(self.seed % 2**63)  # else it would draw from the global state
        loader = DataLoader(self._batches, collate_fn=_unchanged, generator=generator, **self._options)
        batches = map(_or_raise, loader)
        while len(found := list(islice(batches, self.accumulation))) == self.accumulation:
            step += 1
            if step > start_step:
                self._epoch, self._step, self._position = epoch, step, found[-1][1]
                yield [batch for batch, _ in found]
        if step == 0:
            raise DataError(TOO_SHORT.format(self.samples_per_step))

    def state_dict(self) -> dict[str, Any]:
        """The position: an epoch, how many of its steps have been given out, and where in the stream that is."""
        return {"epoch": self._epoch, "step": self._step, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a position; go on with ``loader.epoch(state["epoch"], state["step"])``."""
        self._epoch, self._step, self._position = state["epoch"], state["step"], state["position"]


class _Batches(IterableDataset):
    """This process's batches, each with the position behind the samples that all processes take with it.

    A DataError is handed over as a value, so that no worker wraps its text in others.
    """

    def __init__(self, stream: SampleStream, collate_fn: Collate, batch_size: int, rank: int, world_size: int) -> None:
        self._stream, self._collate = stream, collate_fn
        self._together, self._own = batch_size * world_size, slice(rank * batch_size, (rank + 1) * batch_size)

    def begin(self, order: Order, position: Position | None) -> None:
        """What the next iteration goes through."""
        self._order, self._position = order, position

    def __iter__(self) -> Iterator[tuple[Batch | DataError, Position | None]]:
        try:
            samples = self._stream.samples(self._order, self._position)
            while len(group := list(islice(samples, self._together))) == self._together:
                yield self._collate([sample.make() for sample in group[self._own]]), group[-1].position
        except DataError as error:
            yield error, None


def _unchanged(batch: Any) -> Any:
    return batch


def _or_raise(found: tuple[Batch | DataError, Position | None]) -> tuple[Batch, Position]:
    if isinstance(found[0], DataError):
        raise found[0]
    return found
