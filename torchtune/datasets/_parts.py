"""Takes a dataset apart into the sources that its samples come from, each with samples of it to look at."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from torchtune.data._collate import CROSS_ENTROPY_IGNORE_IDX
from torchtune.data._messages import Message
from torchtune.datasets._concat import ConcatDataset
from torchtune.datasets._mixture import MixtureStream
from torchtune.datasets._packed import PackedDataset
from torchtune.datasets._packed_stream import PackedStream
from torchtune.datasets._prepare import Preparation, tokenised
from torchtune.datasets._token_table import TokenTable
from torchtune.errors import DataError

_QUIETLY = Preparation(workers=0, is_main=False)
_SPREAD = 1_000  # samples whose texts are looked at
_SPREAD_TOKENS = 2_000_000

# The names of ids and labels in a sample, and which of two answers they are.
_SIDES = {
    ("tokens", "labels"): None,
    ("chosen_input_ids", "chosen_labels"): "chosen",
    ("rejected_input_ids", "rejected_labels"): "rejected",
}


_LABELS = {side: labels for (_, labels), side in _SIDES.items()}


@dataclass(frozen=True)
class Part:
    """Samples of one source.

    Args:
        name: where the source stands in the config, such as ``dataset[1]``.
        source: what gives the samples; of a stream its first ones.
        total: how many it has; None for a stream that goes on.
        table: the samples that are looked at.
        numbers: which ones of the source they are, [n].
        side: of pairs of answers ``chosen`` or ``rejected``.
        packed: what puts the samples into packs, if they are.
    """

    name: str
    source: Dataset
    total: int | None
    table: TokenTable
    numbers: np.ndarray
    side: str | None
    packed: PackedDataset | None

    @property
    def title(self) -> str:
        """The name, and which answer it is."""
        return self.name if self.side is None else f"{self.name} ({self.side})"

    @property
    def cut_at(self) -> int | None:
        """Tokens at which samples are cut; None where they are not, or nothing says it."""
        return getattr(self.source, "cut_at", None)

    def where(self, position: int) -> str:
        """File and line of a sample of the table."""
        number = int(self.numbers[position])
        return self.source.where(number) if hasattr(self.source, "where") else f"{self.name}, sample {number + 1}"

    def messages(self, position: int) -> list[Any]:
        """The messages that a sample of the table was made of; none where it was made of something else."""
        content = self.source.content(int(self.numbers[position])) if hasattr(self.source, "content") else None
        found = content.get(self.side or "messages") if isinstance(content, Mapping) else None
        return [message for message in found or () if hasattr(message, "text_content")]

    def spread(self) -> np.ndarray:
        """The samples whose texts are looked at, as places in the table, evenly spread; none where they are made of no
        messages.
        """
        if not len(self.table) or not self.messages(0):
            return np.arange(0)
        chosen = np.unique(np.linspace(0, len(self.table) - 1, _SPREAD).astype(int))
        return chosen[: 1 + np.searchsorted(np.cumsum(self.table.lengths[chosen]), _SPREAD_TOKENS)]

    @property
    def answer_opening(self) -> int:
        """How many tokens stand before the text of an answer and are trained on with it, such as the name of the role:
        those that two different answers have in common.
        """
        if not self.messages(0):
            return 0
        one, other = map(self._trained_of, ("1", "x"))
        return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), 0)

    def _trained_of(self, answer: str) -> list[int]:
        """What is trained on of a dialogue with this answer; nothing where the template refuses such a dialogue."""
        dialogue = [Message("user", "a", masked=True), Message("assistant", answer)]
        content = {**self.source.content(int(self.numbers[0])), self.side or "messages": dialogue}
        try:
            sample = self.source.uncut().encode(content)
        except DataError:
            return []
        return [label for label in sample[_LABELS[self.side]] if label != CROSS_ENTROPY_IGNORE_IDX]

    def only(self, numbers: np.ndarray) -> "Part":
        """Other samples of the source, by number."""
        table = _table(self.source, numbers, self.side, _QUIETLY)
        return replace(self, table=table, numbers=numbers)

    def uncut(self, positions: np.ndarray, how: Preparation) -> TokenTable:
        """The samples at these places of the table at their whole lengths."""
        return _table(self.source.uncut(), self.numbers[positions], self.side, how)


def parts_of(dataset: Dataset, name: str, most: int, how: Preparation = _QUIETLY) -> list[Part]:
    """The parts of a dataset. Of a source that is not tokenised yet some samples are, the same ones each time: drawn
    ones, or the first ones of a stream.

    Args:
        name: where the dataset stands in the config.
        most: samples to tokenise for each source.

    Raises:
        DataError: samples cannot be made; counts and names them.
    """
    return list(_parts(dataset, name, most, how, None))


def _parts(dataset: Dataset, name: str, most: int, how: Preparation, packed: PackedDataset | None) -> Iterator[Part]:
    if isinstance(dataset, ConcatDataset | MixtureStream):
        for number, inner in enumerate(dataset.datasets):
            yield from _parts(inner, f"{name}[{number}]", most, how, packed)
        return
    if isinstance(dataset, PackedDataset | PackedStream):
        packed = dataset.packer if isinstance(dataset, PackedStream) else dataset
        yield from _parts(dataset.ds, name, most, how, packed)
        return
    is_stream = getattr(dataset, "streaming", False)
    source = dataset.head(most) if is_stream else dataset
    total = None if is_stream and len(source) == most else len(source)
    if (table := getattr(source, "table", None)) is not None:
        yield Part(name, source, total, table, np.arange(len(table)), None, packed)
        return
    numbers = _drawn(len(source), most)
    for side in _sides(source, numbers):
        yield Part(name, source, total, _table(source, numbers, side, how), numbers, side, packed)


def _drawn(total: int, most: int) -> np.ndarray:
    if total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, most, replace=False, shuffle=False))


def _sides(source: Dataset, numbers: np.ndarray) -> list[str | None]:
    """Which kinds of tokens the samples have; none of what is not known here."""
    with _counted(source, numbers):
        sample = source[int(numbers[0])] if len(numbers) else {}
    found = set(sample) if isinstance(sample, Mapping) else set()
    return [side for names, side in _SIDES.items() if found.issuperset(names)]


def _table(source: Dataset, numbers: np.ndarray, side: str | None, how: Preparation) -> TokenTable:
    with _counted(source, numbers):
        return tokenised(_Picked(source, numbers, side), how)


@contextmanager
def _counted(source: Dataset, numbers: np.ndarray) -> Iterator[None]:
    """Lets the error of one sample say how many others have one."""
    try:
        yield
    except DataError:
        if hasattr(source, "check"):
            source.check(numbers.tolist())
        raise


class _Picked(Dataset):
    """Some samples of a source, of pairs one answer."""

    def __init__(self, source: Dataset, numbers: Sequence[int], side: str | None) -> None:
        self._source, self._numbers = source, numbers
        self._names = next(names for names, of in _SIDES.items() if of == side)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self._source[int(self._numbers[index])]
        return dict(zip(("tokens", "labels"), map(sample.get, self._names)))
