"""Tokenised samples in flat arrays, 5 bytes a token, in memory or mapped from files."""

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchtune.data._collate import CROSS_ENTROPY_IGNORE_IDX

_STRETCH = 1 << 22  # tokens
_EXCERPTS, _EXCERPT = 64, 4096  # of each file so many, each of so many bytes
_ABANDONED = 3600  # seconds without a write

_TOKENS, _TRAINED, _ENDS, _FACTS = "tokens.bin", "trained.bin", "ends.bin", "facts.json"


@dataclass(frozen=True)
class Piece:
    """Some samples in a row: ids int32 [T], which of them are trained on bool [T], and lengths int64 [n]."""

    tokens: np.ndarray
    trained: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, samples: Iterable[dict[str, Any]]) -> "Piece":
        """Of samples with ``tokens`` and unshifted ``labels``."""
        tokens, trained, lengths = array("i"), bytearray(), array("q")
        for sample in samples:
            ids = np.asarray(sample["tokens"], dtype=np.int32)
            tokens.frombytes(ids.tobytes())
            trained += (np.asarray(sample["labels"]) != CROSS_ENTROPY_IGNORE_IDX).tobytes()
            lengths.append(len(ids))
        return cls(*(np.frombuffer(*column) for column in ((tokens, np.int32), (trained, bool), (lengths, np.int64))))


class TokenTable:
    """Samples by number; ``ends[i]`` is where sample i ends in ``tokens`` and ``trained``."""

    def __init__(self, tokens: np.ndarray, trained: np.ndarray, ends: np.ndarray) -> None:
        self.tokens, self.trained, self.ends = tokens, trained, ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        index = range(len(self))[index]
        start = int(self.ends[index - 1]) if index else 0
        tokens = self.tokens[start : self.ends[index]].astype(np.int64)
        trained = self.trained[start : self.ends[index]]
        return {"tokens": tokens, "labels": np.where(trained, tokens, CROSS_ENTROPY_IGNORE_IDX)}

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, [n]."""
        return np.diff(self.ends, prepend=0)

    @property
    def targets(self) -> np.ndarray:
        """Tokens of each sample that the loss counts, [n]: those trained on, but for the first, which none predicts."""
        counts = self.summed(lambda tokens, trained: trained)
        filled = np.flatnonzero(self.lengths)
        counts[filled] -= self.trained[(self.ends - self.lengths)[filled]]
        return counts

    def summed(self, values: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """A sum over the tokens of each sample, [n].

        Args:
            values: what is summed; gets the ids of some tokens and whether they are trained on.
        """
        sums = np.zeros(len(self), dtype=np.int64)
        lengths = self.lengths
        for here in self._stretches():
            filled = here.start + np.flatnonzero(lengths[here])  # reduceat would give an empty one the token after it
            if len(filled):
                starts = (self.ends - lengths)[filled]
                span = slice(int(starts[0]), int(self.ends[filled[-1]]))
                summands = values(self.tokens[span], self.trained[span])
                sums[filled] = np.add.reduceat(summands, starts - span.start, dtype=np.int64)
        return sums

    def _stretches(self) -> Iterator[slice]:
        """All samples, some at a time, so that what is computed of their tokens stays small."""
        total = int(self.ends[-1]) if len(self) else 0
        cuts = np.searchsorted(self.ends, np.arange(_STRETCH, total, _STRETCH)) + 1
        bounds = np.unique([0, *cuts, len(self)])
        return (slice(int(start), int(stop)) for start, stop in zip(bounds[:-1], bounds[1:]))

    def fingerprint(self) -> str:
        """Changes with any token, and with what is trained on."""
        content = hashlib.sha256()
        for values in (self.tokens, self.trained, self.ends):
            content.update(np.ascontiguousarray(values).data)
        return content.hexdigest()


class InMemory:
    """A table in memory."""

    def __init__(self) -> None:
        self._tokens, self._trained, self._lengths = array("i"), bytearray(), array("q")

    def add(self, piece: Piece) -> None:
        self._tokens.frombytes(piece.tokens.tobytes())
        self._trained += piece.trained.tobytes()
        self._lengths.frombytes(piece.lengths.tobytes())

    def table(self) -> TokenTable:
        tokens, trained = np.frombuffer(self._tokens, np.int32), np.frombuffer(self._trained, bool)
        return TokenTable(tokens, trained, np.cumsum(np.frombuffer(self._lengths, np.int64)))


class InFolder:
    """A table in files, which appear at ``folder`` only when they are complete.

    Args:
        facts: what the table is of; written beside it.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self._folder, self._facts, self._end = folder, facts, 0
        self._hidden = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
        self._hidden.mkdir(parents=True)
        remove_abandoned(folder.parent)
        self._files = {name: open(self._hidden / name, "wb") for name in (_TOKENS, _TRAINED, _ENDS)}

    def add(self, piece: Piece) -> None:
        ends = self._end + np.cumsum(piece.lengths)
        for name, values in ((_TOKENS, piece.tokens), (_TRAINED, piece.trained), (_ENDS, ends)):
            self._files[name].write(values.tobytes())
        self._end = int(ends[-1]) if len(ends) else self._end

    def table(self) -> TokenTable:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        facts = self._facts | {"tokens": self._end, "excerpts": _excerpts(self._hidden)}
        (self._hidden / _FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        found = open_table(self._folder)
        if found is None:  # else somebody else has made the same table meanwhile
            shutil.rmtree(self._folder, ignore_errors=True)  # a torn one
            with suppress(OSError):
                self._hidden.rename(self._folder)
            found = open_table(self._folder)
        if found is None:
            raise OSError(errno.EIO, "what was written cannot be read back", str(self._folder))
        self.discard()
        return found

    def discard(self) -> None:
        """Forget what was added."""
        for file in self._files.values():
            with suppress(OSError):  # a full disk
                file.close()
        shutil.rmtree(self._hidden, ignore_errors=True)


def open_table(folder: Path) -> TokenTable | None:
    """The table in a folder, mapped and not read; None when there is none, or not the whole of it."""
    try:
        facts = json.loads((folder / _FACTS).read_text())
        size, excerpts = facts["tokens"], facts["excerpts"]
        if excerpts != _excerpts(folder):
            return None
        files = (folder / _TOKENS, np.int32), (folder / _TRAINED, bool), (folder / _ENDS, np.int64)
        tokens, trained, ends = (np.memmap(path, kind, mode="r") for path, kind in files)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = len(tokens) == len(trained) == size == int(ends[-1])
    return TokenTable(tokens, trained, ends) if whole else None


def _excerpts(folder: Path) -> str:
    """The hash of pieces spread over the files: a file of another content is found without being read as a whole."""
    content = hashlib.sha256()
    for name in (_TOKENS, _TRAINED, _ENDS):
        with open(folder / name, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            for start in range(0, size, max(_EXCERPT, size // _EXCERPTS)):
                file.seek(start)
                content.update(file.read(_EXCERPT))
    return content.hexdigest()


def remove_abandoned(folder: Path) -> None:
    """Take away what runs that were killed have left unfinished: hidden files, and folders of files."""
    for hidden in folder.glob(".*"):
        with suppress(OSError):
            inside = list(hidden.iterdir()) if hidden.is_dir() else []
            if time.time() - max(path.stat().st_mtime for path in [hidden, *inside]) > _ABANDONED:
                shutil.rmtree(hidden, ignore_errors=True) if hidden.is_dir() else hidden.unlink()


def in_pieces(length: int, size: int) -> Iterator[range]:
    """0 .. length - 1 in ranges of ``size``."""
    return (range(start, min(start + size, length)) for start in range(0, length, size))
