"""The safetensors format, read and written one tensor at a time.

Layout: https://huggingface.co/docs/safetensors. Files are read, not mapped: a mapped file that shrinks kills a process.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.training.checkpointing._io import FileRecord, HashedFile

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000  # the reference reader's limit


@dataclass(frozen=True)
class Info:
    """What a header says of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class SafetensorsFile:
    """A file whose header is read and checked at once and whose tensors are read when asked for.

    Raises:
        CheckpointError: the file is truncated, corrupt or of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header, self._data_start, data_bytes = _read_header(path)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.infos: dict[str, Info] = {}
        self._starts: dict[str, int] = {}
        end = 0
        try:
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                end = self._add(name, entry, end)
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"{path} is corrupt: its header does not describe tensors ({e!r})") from e
        if end != data_bytes:
            kind = "truncated" if data_bytes < end else "corrupt"
            raise CheckpointError(
                f"{path} is {kind}: its header describes {end:,} bytes of tensors, it holds {data_bytes:,}. "
                "Download or copy it again."
            )

    def _add(self, name: str, entry: Mapping, expected_start: int) -> int:
        if entry["dtype"] not in _DTYPES:
            raise CheckpointError(f"{self.path}: {name} has dtype {entry['dtype']}, which is not supported")
        info = Info(tuple(int(n) for n in entry["shape"]), _DTYPES[entry["dtype"]])
        start, end = entry["data_offsets"]
        if start != expected_start or end - start != info.bytes or min(info.shape, default=0) < 0:
            raise CheckpointError(
                f"{self.path} is corrupt: {name} {list(info.shape)} cannot lie at bytes {start}:{end}"
            )
        self.infos[name], self._starts[name] = info, start
        return end

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, or some of its rows."""
        info, start = self.infos[name], self._data_start + self._starts[name]
        shape = info.shape
        if rows is not None:
            start += rows[0] * Info(shape[1:], info.dtype).bytes
            shape = (rows[1] - rows[0], *shape[1:])
        raw = torch.empty(Info(shape, info.dtype).bytes, dtype=torch.uint8)
        view = memoryview(raw.numpy())
        with open(self.path, "rb", buffering=0) as f:
            f.seek(start)
            while view:
                count = f.readinto(view)
                if not count:
                    raise CheckpointError(f"{self.path} was truncated while {name} was read")
                view = view[count:]
        return raw.view(info.dtype).view(shape)


def _read_header(path: Path) -> tuple[dict, int, int]:
    """The header, where the tensors begin, and how many bytes follow."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        first = f.read(8)
        length = int.from_bytes(first, "little")
        if first == b"version ":
            raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull`")
        if len(first) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{path} is truncated or not safetensors: {size:,} bytes, a header of {length:,} announced; "
                "copy or download it again"
            )
        text = f.read(length)
    try:
        header = json.loads(text)
    except ValueError as e:
        raise CheckpointError(f"{path} is corrupt: its header is not JSON ({e})") from e
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is corrupt: its header is not a table")
    return header, 8 + length, size - 8 - length


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a CPU tensor, in row order."""
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def write_safetensors(
    path: Path,
    infos: Mapping[str, Info],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> FileRecord:
    """Write a file as its tensors come; they must come in the order of ``infos``."""
    header: dict = {"__metadata__": {"format": "pt"} | dict(metadata or {})}
    end = 0
    for name, info in infos.items():
        header[name] = {
            "dtype": _CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [end, end := end + info.bytes],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the reference writer aligns the tensors so
    with HashedFile(path) as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for (name, info), (came, tensor) in zip(infos.items(), tensors, strict=True):
            assert (came, tuple(tensor.shape), tensor.dtype) == (name, info.shape, info.dtype), (
                came,
                tensor.shape,
                name,
                info,
            )
            out.write(as_bytes(tensor))
    return out.record


def split_into_shards(infos: Mapping[str, Info], max_bytes: int) -> list[dict[str, Info]]:
    """Consecutive tensors of at most ``max_bytes`` a shard; a larger tensor has one for itself.

    Readers view the file's bytes in place, so a tensor that would not start at a multiple of its item size opens a new
    shard too.
    """
    shards: list[dict[str, Info]] = [{}]
    size = 0
    for name, info in infos.items():
        if shards[-1] and (size + info.bytes > max_bytes or size % info.dtype.itemsize):
            shards.append({})
            size = 0
        shards[-1][name] = info
        size += info.bytes
    return shards
