"""Tensors that lie in several files, found by name and read one at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.models._text_part import name_alone
from torchtune.training.checkpointing._safetensors import Info, SafetensorsFile
from torchtune.training.checkpointing._torch_file import TorchFile


class Tensors(Protocol):
    """Named tensors whose shapes are known before any is read."""

    infos: Mapping[str, Info]

    def where(self, name: str) -> str:
        """The file or files that hold a tensor, for messages."""

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, or some of its rows."""


def open_file(path: Path) -> SafetensorsFile | TorchFile:
    """A reader for one file.

    Raises:
        CheckpointError: the file is missing, truncated or corrupt.
    """
    try:
        return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)
    except OSError as e:
        raise CheckpointError(f"cannot read {path}: {e.strerror}") from e


class Files:
    """The tensors of several files, each in exactly one of them.

    Raises:
        CheckpointError: a file cannot be read, or two hold the same name.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.infos: dict[str, Info] = {}
        self._file_of: dict[str, SafetensorsFile | TorchFile] = {}
        for file in map(open_file, paths):
            for name, info in file.infos.items():
                if name in self.infos:
                    both = f"{self._file_of[name].path.name} and {file.path.name}"
                    raise CheckpointError(
                        f"{name} is in both {both} of {file.path.parent}; name the right ones in checkpoint_files"
                    )
                self.infos[name], self._file_of[name] = info, file

    def where(self, name: str) -> str:
        return self._file_of[name].path.name

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        return self._file_of[name].read(name, rows)


class TextPart:
    """The tensors of a language model among those of a model that reads images too, with the names they have alone."""

    def __init__(self, whole: Tensors) -> None:
        self._whole = whole
        self._names = {alone: name for name in whole.infos if (alone := name_alone(name))}
        self.infos = {alone: whole.infos[name] for alone, name in self._names.items()}

    def where(self, name: str) -> str:
        return self._whole.where(self._names[name])

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        return self._whole.read(self._names[name], rows)


class ModelParallelFiles:
    """Meta's ``consolidated.NN.pth``: every file holds a part of every matrix and a copy of every vector.

    Output-split matrices are concatenated on dim 0, input-split ones on dim 1
    (https://github.com/meta-llama/llama3/blob/main/llama/model.py: ColumnParallelLinear and RowParallelLinear). The
    embedding was split over channels in earlier releases and over the vocabulary in later ones.

    Raises:
        CheckpointError: a file cannot be read, or the parts do not fit together.
    """

    _INPUT_SPLIT = (".wo.weight", ".w2.weight")

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [open_file(path) for path in paths]
        self.infos: dict[str, Info] = {}
        for name, info in self._files[0].infos.items():
            parts = [f.infos.get(name) for f in self._files]
            if any(p is None or p.dtype != info.dtype or len(p.shape) != len(info.shape) for p in parts):
                raise CheckpointError(f"{paths[0].parent}: {name} is not alike in {', '.join(p.name for p in paths)}")
            self.infos[name] = Info(self._whole_shape(name, [p.shape for p in parts]), info.dtype)

    def _dim(self, name: str) -> int | None:
        """The dim that is split; None when every file has the whole."""
        shape = self._files[0].infos[name].shape
        if len(self._files) == 1 or len(shape) < 2:
            return None
        if name == "tok_embeddings.weight":
            norm = self._files[0].infos.get("norm.weight")
            return 0 if norm is not None and norm.shape[0] == shape[1] else 1
        return 1 if name.endswith(self._INPUT_SPLIT) else 0

    def _whole_shape(self, name: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        dim = self._dim(name)
        others = {tuple(n for i, n in enumerate(s) if i != dim) for s in shapes}
        if len(others) > 1:
            raise CheckpointError(
                f"{self.where(name)}: the parts of {name} do not fit together: {[list(s) for s in shapes]}"
            )
        return tuple(sum(s[i] for s in shapes) if i == dim else n for i, n in enumerate(shapes[0]))

    def where(self, name: str) -> str:
        first, last = self._files[0].path.name, self._files[-1].path.name
        return first if first == last else f"{first}..{last}"

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        dim = self._dim(name)
        parts = [f.read(name) for f in (self._files[:1] if dim is None else self._files)]
        whole = parts[0] if dim is None else torch.cat(parts, dim)
        return whole[slice(*rows)] if rows else whole
