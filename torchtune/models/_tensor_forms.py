"""How tensors in someone else's files are made of ours, and ours of theirs: the forms that an entry of a
:class:`torchtune.models._weights.WeightMap` can have.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchtune.errors import CheckpointError

Shape = tuple[int, ...]
Fetch = Callable[[str, tuple[int, int] | None], Tensor]
"""Gives a foreign tensor by its name, or of its rows those from the first number up to the second."""

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True)
class Read:
    """How one of our tensors is made: ``rows`` of a foreign one (None: all), then perhaps RoPE's channel order."""

    native: str
    foreign: str
    rows: tuple[int, int] | None = None
    head_dim: int | None = None  # set when the channel order differs

    def shape(self, foreign: Shape) -> Shape:
        """The shape of ours, of that of the foreign one."""
        return foreign if self.rows is None else (self.rows[1] - self.rows[0], *foreign[1:])

    def make(self, fetch: Fetch) -> Tensor:
        """Our tensor."""
        rows = fetch(self.foreign, self.rows)
        return rows if self.head_dim is None else to_interleaved(rows, self.head_dim)


@dataclass(frozen=True)
class ReadColumns(Read):
    """Columns of all ``rows``; a row of a 3-D tensor is a matrix. One row is in memory at a time beside ours.

    Args:
        columns: first, end and step.
    """

    columns: tuple[int, int | None, int] = (0, None, 1)

    def shape(self, foreign: Shape) -> Shape:
        return *foreign[:-1], len(range(*slice(*self.columns).indices(foreign[-1])))

    def make(self, fetch: Fetch) -> Tensor:
        columns = slice(*self.columns)
        return _stack([self.foreign] * self.rows[1], lambda i, name: fetch(name, (i, i + 1))[0][..., columns])


@dataclass(frozen=True)
class ReadExperts(Read):
    """A stack of foreign matrices, each transposed. One of them is in memory at a time beside ours.

    Args:
        experts: the name of each by its place in the stack; ``foreign`` is one of them.
    """

    experts: Mapping[int, str] = field(default_factory=dict)

    def shape(self, foreign: Shape) -> Shape:
        return len(self.experts), *foreign[::-1]

    def make(self, fetch: Fetch) -> Tensor:
        return _stack([self.experts[i] for i in range(len(self.experts))], lambda i, name: fetch(name, None).t())


def _stack(names: Sequence[str], read: Callable[[int, str], Tensor]) -> Tensor:
    whole = None
    for i, name in enumerate(names):
        one = read(i, name)
        whole = one.new_empty(len(names), *one.shape) if whole is None else whole
        whole[i] = one
    return whole


@dataclass(frozen=True)
class Write:
    """How one foreign tensor is made: these of ours, stacked on dim 0."""

    foreign: str
    natives: tuple[str, ...]
    head_dim: int | None = None

    @staticmethod
    def shape(natives: Sequence[Shape]) -> Shape:
        """The foreign tensor's shape, of those of ours."""
        return _joined(natives, 0)

    def finish(self, parts: Sequence[Tensor]) -> Tensor:
        """The foreign tensor, from ours in the order of ``natives``."""
        whole = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        return whole if self.head_dim is None else to_halves(whole, self.head_dim)


@dataclass(frozen=True)
class WriteColumns(Write):
    """Ours side by side on the last dim, or their columns in turn."""

    interleaved: bool = False

    @staticmethod
    def shape(natives: Sequence[Shape]) -> Shape:
        return _joined(natives, -1)

    def finish(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(parts), -1).flatten(-2) if self.interleaved else torch.cat(list(parts), -1)


@dataclass(frozen=True)
class WriteExpert(Write):
    """One matrix of a stack of ours, transposed."""

    expert: int = 0

    @staticmethod
    def shape(natives: Sequence[Shape]) -> Shape:
        return natives[0][:0:-1]

    def finish(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0][self.expert].t().contiguous()


def _joined(shapes: Sequence[Shape], dim: int) -> Shape:
    whole = list(shapes[0])
    whole[dim] = sum(shape[dim] for shape in shapes)
    return tuple(whole)


@dataclass(frozen=True)
class Rows:
    """A foreign tensor is these of ours, stacked on dim 0; what a table means by a plain name or a tuple of names."""

    natives: tuple[str, ...]
    shape = staticmethod(Write.shape)

    def reads(
        self, foreign: str, shape: Shape, natives: Mapping[str, Shape | None], head_dim: int | None
    ) -> list[Read]:
        """How each of ``natives`` is made of a foreign tensor of this shape; None is a shape that is not known."""
        if len(natives) == 1:
            return [Read(native, foreign, None, head_dim) for native in natives]
        if None in natives.values():
            raise CheckpointError(f"{foreign} holds {len(natives)} of the model's tensors: their shapes are needed")
        reads, start = [], 0
        for native, wanted in natives.items():
            reads.append(Read(native, foreign, (start, start + wanted[0]), head_dim))
            start += wanted[0]
        return reads

    def writes(self, foreign: str, natives: Mapping[str, Shape | None], head_dim: int | None) -> list[Write]:
        """How the foreign tensors are made of ``natives``."""
        return [Write(foreign, tuple(natives), head_dim)]


@dataclass(frozen=True)
class Columns:
    """A foreign tensor is these of ours, all of one width, side by side on the last dim.

    Args:
        interleaved: their columns come in turn: the first of each, then the second of each, and so on.
    """

    natives: tuple[str, ...]
    interleaved: bool = False
    shape = staticmethod(WriteColumns.shape)

    def reads(
        self, foreign: str, shape: Shape, natives: Mapping[str, Shape | None], head_dim: int | None
    ) -> list[Read]:
        """See :class:`Rows`."""
        count, width = len(natives), shape[-1] // len(natives)
        parts = [(i, None, count) if self.interleaved else (i * width, (i + 1) * width, 1) for i in range(count)]
        return [ReadColumns(native, foreign, (0, shape[0]), None, part) for native, part in zip(natives, parts)]

    def writes(self, foreign: str, natives: Mapping[str, Shape | None], head_dim: int | None) -> list[Write]:
        """See :class:`Rows`."""
        return [WriteColumns(foreign, tuple(natives), None, self.interleaved)]


@dataclass(frozen=True)
class PerExpert:
    """A foreign matrix [out, in] of one expert, whose number is the last in its name, is one of those in a stack of
    ours, [experts, in, out].
    """

    native: str
    shape = staticmethod(WriteExpert.shape)

    @property
    def natives(self) -> tuple[str]:
        """The stack's name."""
        return (self.native,)

    def reads(
        self, foreign: str, shape: Shape, natives: Mapping[str, Shape | None], head_dim: int | None
    ) -> list[Read]:
        """See :class:`Rows`; a read of one expert, to be put together with those of the others."""
        return [ReadExperts(native, foreign, experts={int(NUMBER.findall(foreign)[-1]): foreign}) for native in natives]

    def writes(self, foreign: str, natives: Mapping[str, Shape | None], head_dim: int | None) -> list[Write]:
        """See :class:`Rows`; ``foreign`` has a ``{}`` for the expert's number."""
        ((native, shape),) = natives.items()
        if shape is None:
            raise CheckpointError(f"{native} holds a matrix for each expert: its shape is needed")
        return [WriteExpert(foreign.format(i), (native,), expert=i) for i in range(shape[0])]


Form = Rows | Columns | PerExpert


def put_experts_together(reads: Iterable[Read]) -> list[Read]:
    """The same reads, with those of one stack's experts as one at the place of the first."""
    whole: list[Read] = []
    stacks: dict[str, dict[int, str]] = {}
    for read in reads:
        if not isinstance(read, ReadExperts):
            whole.append(read)
        elif read.native in stacks:
            stacks[read.native] |= read.experts
        else:
            stacks[read.native] = dict(read.experts)
            whole.append(ReadExperts(read.native, read.foreign, experts=stacks[read.native]))
    return whole


def to_interleaved(rows: Tensor, head_dim: int) -> Tensor:
    """Rows ordered (head, half, pair) -> (head, pair, half): transformers keeps RoPE's pairs apart, Meta side by side
    (https://github.com/huggingface/transformers/blob/main/src/transformers/models/llama/convert_llama_weights_to_hf.py).
    """
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def to_halves(rows: Tensor, head_dim: int) -> Tensor:
    """The inverse of :func:`to_interleaved`."""
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
