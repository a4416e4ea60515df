"""Which samples belong to which step: one integer over an order that the seed gives, whatever the process count.

Step ``s`` of an epoch uses ``order[s * G : (s + 1) * G]`` with ``G = batch_size * world_size * accumulation``.
Micro-batch ``m`` of rank ``r`` is the ``(m * world_size + r)``-th group of ``batch_size`` in it, so one process with
accumulation ``2A`` and two processes with ``A`` see the same samples in every step.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from torchtune.data._collate import CROSS_ENTROPY_IGNORE_IDX
from torchtune.data._order import EpochOrder, LengthGroupedOrder
from torchtune.errors import DataError

Batch = Any
Collate = Callable[[list[Any]], Batch]

_SECONDS_FOR_A_STEP = 10  # that a process goes on to prepare batches when it was told to end


class StepLoader:
    """Gives, step by step, the micro-batches of this process; remembers the epoch and the step it has reached.

    Args:
        batch_size: samples per micro-batch and process
        gradient_accumulation_steps: micro-batches per step
        num_workers: processes that prepare batches; 0 prepares them in this one. The batches are the same.
        lengths: tokens of every sample; where given, samples of like length meet in a step
        drop_last: leave out the samples at the end of an epoch that do not fill a step. When False they make one
            more step, and a process for which none is left gets a batch with no target.

    Raises:
        DataError: the dataset is empty, or too small for one step
    """

    def __init__(
        self,
        dataset: Dataset,
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
        lengths: np.ndarray | None = None,
        drop_last: bool = True,
    ) -> None:
        self.batch_size, self.accumulation = batch_size, gradient_accumulation_steps
        self.rank, self.world_size = rank, world_size
        self.samples_per_step = batch_size * world_size * gradient_accumulation_steps
        order_of = dataset.epoch_order if hasattr(dataset, "epoch_order") else partial(EpochOrder, len(dataset))
        order = order_of(seed=seed, shuffle=shuffle)
        self.order = order if lengths is None else LengthGroupedOrder(order, lengths, self.samples_per_step, seed=seed)
        self.steps_per_epoch = self._count_steps(order.length, drop_last)
        self._plan = _Plan()
        self._loader = DataLoader(
            _Batches(dataset, collate_fn),
            batch_size=None,
            sampler=self._plan,
            collate_fn=_unchanged,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=leave_stopping_to_training,
            generator=torch.Generator().manual_seed(seed % 2**63),  # else each epoch would draw from the global state
        )
        self._epoch = self._step = 0

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[list[Batch]]:
        """The remaining steps of an epoch: for each step this process's micro-batches, in order."""
        order = self.order.indices(epoch)
        self._plan.groups = [
            group.tolist() for step in range(start_step, self.steps_per_epoch) for group in self._groups(order, step)
        ]
        batches = iter(self._loader)
        for step in range(start_step, self.steps_per_epoch):
            micro_batches = [_or_raise(next(batches)) for _ in range(self.accumulation)]
            self._epoch, self._step = epoch, step + 1
            yield micro_batches

    def state_dict(self) -> dict[str, int]:
        """The position: an epoch, and how many of its steps have been given out."""
        return {"epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over a position; go on with ``loader.epoch(state["epoch"], state["step"])``."""
        self._epoch, self._step = state["epoch"], state["step"]

    def _groups(self, order: torch.Tensor, step: int) -> list[torch.Tensor]:
        of_step = order[step * self.samples_per_step : (step + 1) * self.samples_per_step]
        return [
            _slice(of_step, micro * self.world_size + self.rank, self.batch_size) for micro in range(self.accumulation)
        ]

    def _count_steps(self, length: int, drop_last: bool) -> int:
        if length == 0:
            raise DataError("the dataset has no samples; check `split`, `filter_fn` and the data file")
        if not drop_last:
            return -(-length // self.samples_per_step)
        if reason := too_few_samples(length, self.batch_size, self.accumulation, self.world_size):
            raise DataError(reason)
        return length // self.samples_per_step


def too_few_samples(length: int, batch_size: int, accumulation: int, world_size: int = 1) -> str | None:
    """Why a dataset of this length cannot be trained on: it makes no step; None where it makes one."""
    needed = batch_size * accumulation * world_size
    if length >= needed:
        return None
    return (
        f"the dataset has {length} samples (packs, when packed), and one optimizer step needs {needed}: batch_size "
        f"{batch_size} x gradient_accumulation_steps {accumulation} x {world_size} process(es). Lower one of them, or "
        "give more data; when packed, a smaller tokenizer.max_seq_len makes more packs."
    )


def validation_batches(
    dataset: Dataset, batch_size: int, rank: int, world_size: int, collate_fn: Collate
) -> Iterator[Batch]:
    """This process's share of a dataset: over all processes every sample once, and everywhere as many batches.

    A process that has no sample left gets a batch without a target, because under FSDP every process has to run
    the same number of forward passes.
    """
    batches = _Batches(dataset, collate_fn)
    order = torch.arange(len(dataset))
    for turn in range(-(-len(dataset) // (batch_size * world_size))):
        yield _or_raise(batches[_slice(order, turn * world_size + rank, batch_size).tolist()])


def leave_stopping_to_training(worker: int) -> None:
    """In a process that prepares batches: let the training process end first when all processes of a run are signalled.

    A scheduler does that, and so does Ctrl-C. Torch takes a process that a signal ended for a failure of the run, which
    then could not save. This one goes on for as long as the batches of a step may take, and ends as if it were done.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)  # heard at once, also while a library is at work and no handler could run
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_some_time_after, args=(heard,), daemon=True).start()


def _end_some_time_after(heard: int) -> None:
    while signal.SIGTERM not in os.read(heard, 1):
        pass
    time.sleep(_SECONDS_FOR_A_STEP)
    os._exit(0)


class _Plan(Sampler[list[int]]):
    """The sample numbers of every batch still to come."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)


class _Batches(Dataset):
    """Sample numbers to a batch; a DataError is handed over as a value, so that no worker wraps its text in others."""

    def __init__(self, dataset: Dataset, collate_fn: Collate) -> None:
        self.dataset, self.collate_fn = dataset, collate_fn

    def __getitem__(self, indices: Sequence[int]) -> Batch | DataError:
        try:
            if indices:
                return self.collate_fn([self.dataset[i] for i in indices])
            batch = self.collate_fn([self.dataset[0]])
        except DataError as error:
            return error
        batch["labels"] = torch.full_like(batch["labels"], CROSS_ENTROPY_IGNORE_IDX)
        return batch


def _slice(order: torch.Tensor, number: int, size: int) -> torch.Tensor:
    return order[number * size : (number + 1) * size]


def _unchanged(batch: Batch) -> Batch:
    return batch


def _or_raise(batch: Batch | DataError) -> Batch:
    if isinstance(batch, DataError):
        raise batch
    return batch
