"""Tensors as a GGUF file holds them: their order of channels, their types of numbers, and back."""

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from math import prod
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from torchtune.errors import CheckpointError, MissingDependency
from torchtune.export._folder import refuse_overflow
from torchtune.export._gguf_architectures import Architecture
from torchtune.export._gguf_rope import main_rope
from torchtune.models._decoder import Arch
from torchtune.models._tensor_forms import Shape, Write, to_halves, to_interleaved
from torchtune.models._weights import EMBEDDING, OUTPUT

_TURNING = re.compile(r"\.attn\.[qk]_proj\.(weight|bias)$")
_EXACT = ".router.gate.weight"  # a little number more or less there is another expert
_OF_DTYPE = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_NUMBERS_AT_ONCE = 1 << 22


def import_gguf() -> ModuleType:
    """The package gguf.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        return import_module("gguf")
    except ModuleNotFoundError as e:
        raise MissingDependency("a GGUF file needs the package gguf, which is not installed: pip install gguf") from e


def commonest_type(saved: Mapping[str, tuple[Shape, torch.dtype]]) -> str:
    """The type of most of a checkpoint's numbers.

    Raises:
        CheckpointError: a GGUF file has no such type.
    """
    sizes: Counter[torch.dtype] = Counter()
    for shape, dtype in saved.values():
        sizes[dtype] += prod(shape)
    dtype = sizes.most_common(1)[0][0]
    if dtype not in _OF_DTYPE:
        raise CheckpointError(f"the checkpoint's weights are {dtype}; say what a GGUF file is to hold with --quantize")
    return _OF_DTYPE[dtype]


class Storage:
    """How each of our tensors is kept in a file of an architecture.

    Args:
        saved: name -> (shape, dtype) in the checkpoint.
        kind: the type of matrices.
    """

    def __init__(self, row: Architecture, a: Arch, saved: Mapping[str, tuple[Shape, torch.dtype]], kind: str) -> None:
        self._gguf, self._row, self._saved, self._kind = import_gguf(), row, saved, kind
        ours = main_rope(row, a).interleaved
        apart, together = (partial(form, head_dim=a.channels) for form in (to_halves, to_interleaved))
        self._turn, self._turn_back = (apart, together) if ours else (together, apart)
        self._turns = ours != row.interleaved
        self.types = {name: self._type_of(name) for name in saved}

    def _type_of(self, name: str) -> str:
        """Vectors stay exact; what has rows of no whole number of blocks gets 16 bits; so do 4 bits become 8 where
        tokens go in and out, which are the most sensitive.
        """
        if len(self._saved[name][0]) == 1 or name.endswith(_EXACT):
            return "F32"
        wanted = "Q8_0" if self._kind == "Q4_0" and name in (EMBEDDING, OUTPUT) else self._kind
        return wanted if self.shape(name)[-1] % self._block(wanted)[0] == 0 else "F16"

    def _block(self, kind: str) -> tuple[int, int]:
        """Numbers and bytes of a block."""
        return self._gguf.GGML_QUANT_SIZES[self._gguf.GGMLQuantizationType[kind]]

    def shape(self, name: str) -> Shape:
        """In the file; experts are transposed there."""
        shape = self._saved[name][0]
        return (*shape[:-2], shape[-1], shape[-2]) if len(shape) == 3 else shape

    def num_bytes(self, name: str) -> int:
        numbers, size = self._block(self.types[name])
        return prod(self._saved[name][0]) // numbers * size

    @property
    def is_exact(self) -> bool:
        """Whether every number is in the file as it is in the checkpoint."""
        kept = all(kind in ("F32", _OF_DTYPE.get(self._saved[name][1])) for name, kind in self.types.items())
        return kept and not self._row.norm_offset

    def _there(self, name: str, tensor: Tensor, *, back: bool = False) -> Tensor:
        """A tensor with the file's order of numbers; ``back`` is the inverse."""
        if tensor.dim() == 3:
            return tensor.mT
        if name.endswith(".scale"):
            return tensor.float() + (-self._row.norm_offset if back else self._row.norm_offset)
        if self._turns and _TURNING.search(name):
            return (self._turn_back if back else self._turn)(tensor)
        return tensor

    def kept(self, name: str, tensor: Tensor) -> Tensor:
        """A weight as the file's reader will see it."""
        kind, there = self._gguf.GGMLQuantizationType[self.types[name]], self._there(name, tensor)
        read = torch.from_numpy(self._gguf.dequantize(self.array(name, tensor), kind)).view(there.shape)
        return self._there(name, read, back=True)

    def array(self, name: str, tensor: Tensor) -> np.ndarray:
        """The bytes of a weight, by rows; made some rows at a time, since quantising takes several times their room."""
        kind = self._gguf.GGMLQuantizationType[self.types[name]]
        if kind.name == "F16":
            refuse_overflow(name, tensor, tensor.half())
        there = self._there(name, tensor)
        rows = there.reshape(-1, there.shape[-1])
        made = np.empty(self._gguf.quants.quant_shape_to_byte_shape(tuple(rows.shape), kind), np.uint8)
        step = max(1, _NUMBERS_AT_ONCE // rows.shape[1])
        for start in range(0, len(made), step):
            numbers = rows[start : start + step].float().numpy()
            made[start : start + step] = self._gguf.quantize(numbers, kind).view(np.uint8)
        return made

    def announcement(self, write: Write) -> tuple[tuple[int, ...], int, int]:
        """Of a tensor of the file: its shape in bytes, how many those are, and the type."""
        kind = self._gguf.GGMLQuantizationType[self.types[write.natives[0]]]
        shape = write.shape([self.shape(name) for name in write.natives])
        return (
            self._gguf.quants.quant_shape_to_byte_shape(shape, kind),
            sum(map(self.num_bytes, write.natives)),
            kind,
        )
