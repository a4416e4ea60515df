"""Several datasets as one, laid end to end."""

import hashlib
from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from typing import Any

from torch.utils.data import Dataset

from torchtune.datasets._packed import PackedDataset
from torchtune.datasets._prepare import Preparation
from torchtune.errors import ConfigError


class ConcatDataset(Dataset):
    """The samples of all the datasets, in their order; ``packed`` says whether they are packs.

    Raises:
        ConfigError: some of the datasets are packed and some are not
    """

    def __init__(self, datasets: list[Dataset]) -> None:
        kinds = {isinstance(dataset, PackedDataset) or getattr(dataset, "packed", False) for dataset in datasets}
        if len(kinds) != 1:
            found = "packed and unpacked datasets" if kinds else "an empty list"
            raise ConfigError(f"ConcatDataset needs datasets that are all packed or all not packed, found {found}")
        self._datasets, self.packed = list(datasets), kinds.pop()

    @property
    def datasets(self) -> list[Dataset]:
        """The datasets, in their order."""
        return self._datasets

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self._datasets)))  # packs are made when they are counted

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        which = bisect_right(self._ends, index)
        return self._datasets[which][index - (self._ends[which - 1] if which else 0)]

    def prepare(self, how: Preparation) -> None:
        """Tokenise, and pack, all of them now."""
        for dataset in self._datasets:
            if hasattr(dataset, "prepare"):
                dataset.prepare(how)

    def fingerprint(self) -> str:
        """Changes with any of the datasets or their order."""
        parts = (
            getattr(dataset, "fingerprint", str)() for dataset in self._datasets
        )  # one of the user's may have none
        return hashlib.sha256("".join(parts).encode()).hexdigest()
