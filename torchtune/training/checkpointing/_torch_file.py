"""Files of ``torch.save``, read without running their pickle and written one tensor at a time."""

import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from torchtune.errors import CheckpointError
from torchtune.training.checkpointing._io import FileRecord, record_of, sync
from torchtune.training.checkpointing._safetensors import Info, as_bytes


def load_torch_file(path: Path) -> Any:
    """What a file of ``torch.save`` holds, its tensors mapped from the file where the format allows it.

    Raises:
        CheckpointError: the file is truncated, corrupt, or holds more than tensors and plain values.
    """
    if not (zipped := zipfile.is_zipfile(path)) and _first_bytes(path) == b"PK\x03\x04":
        raise CheckpointError(f"{path} is truncated ({path.stat().st_size:,} bytes). Download or copy it again.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as e:
        found = re.search(r"GLOBAL ([\w.]+)", str(e))
        what = f"asks for {found[1]}" if found else "is not plain tensors"
        raise CheckpointError(
            f"{path} is corrupt or unsafe: its pickle {what}. Only tensors and plain values are loaded; "
            "ask its maker for safetensors."
        ) from e
    except (RuntimeError, EOFError, ValueError, LookupError, OSError) as e:  # torch's reader has no error of its own
        raise CheckpointError(
            f"{path} is truncated or corrupt ({type(e).__name__}: {_first_line(e)}). Copy it again."
        ) from e


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as f:
        return f.read(4)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


class TorchFile:
    """A dictionary of tensors made by ``torch.save``; a tensor's bytes are read when it is used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        held = load_torch_file(path)
        if isinstance(held, dict) and isinstance(held.get("model"), dict):
            held = held["model"]
        if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
            others = [k for k, v in held.items() if not isinstance(v, Tensor)] if isinstance(held, dict) else type(held)
            raise CheckpointError(f"{path} is not a table of tensors; other than tensors it holds {others}")
        self._tensors: dict[str, Tensor] = held
        self.infos = {k: Info(tuple(v.shape), v.dtype) for k, v in held.items()}

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        """A tensor, or some of its rows."""
        return self._tensors[name][slice(*rows)] if rows else self._tensors[name]


def write_torch_file(
    path: Path, infos: Mapping[str, Info], tensors: Iterable[tuple[str, Tensor]], same: Mapping[str, str] | None = None
) -> FileRecord:
    """Write what ``torch.save`` of the whole dictionary would, with one tensor in memory at a time.

    The file is laid out first with room for the bytes
    (https://docs.pytorch.org/docs/stable/notes/serialization.html#torch.serialization.skip_data), then filled.

    Args:
        tensors: in any order.
        same: further name -> the name whose bytes it shares.
    """
    laid_out = {k: torch.empty(i.shape, dtype=i.dtype) for k, i in infos.items()}  # never touched: takes no memory
    laid_out |= {k: laid_out[of] for k, of in (same or {}).items()}
    try:
        with open(path, "wb") as f, torch.serialization.skip_data():
            torch.save(laid_out, f)
    except RuntimeError as e:  # torch hides the error of the storage
        raise CheckpointError(f"cannot write {path}: {_first_line(e)}; is the disk full?") from e
    with FakeTensorMode():
        fakes = torch.load(path, weights_only=True)
    offsets = {k: t.untyped_storage()._checkpoint_offset for k, t in fakes.items()}
    del laid_out
    sums: dict[str, int] = {}
    with open(path, "r+b", buffering=0) as f:
        for name, tensor in tensors:
            assert (tuple(tensor.shape), tensor.dtype) == (infos[name].shape, infos[name].dtype), (name, tensor.shape)
            data = as_bytes(tensor)
            sums[name] = zlib.crc32(data)
            f.seek(offsets[name])
            while data:
                data = data[f.write(data) :]
        assert len(sums) == len(infos), "fewer tensors came than were announced"
        _set_checksums(f, path, {offsets[name]: crc for name, crc in sums.items()})
    sync(path)
    return record_of(path)


def _set_checksums(f: Any, path: Path, sums: Mapping[int, int]) -> None:
    """Put each record's CRC-32 into the zip archive, so that readers which check it are content.

    A local header has it at byte 14 and ends 30 bytes after its start plus its name and extra field; an entry of the
    directory has it at byte 16 (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7 and 4.3.12).
    """
    with zipfile.ZipFile(path) as archive:
        entry, records = archive.start_dir, archive.infolist()
    for record in records:
        f.seek(record.header_offset + 26)
        data_start = record.header_offset + 30 + sum(struct.unpack("<HH", f.read(4)))
        f.seek(entry + 28)
        entry_bytes = 46 + sum(struct.unpack("<HHH", f.read(6)))
        if data_start in sums:
            for place in (record.header_offset + 14, entry + 16):
                f.seek(place)
                f.write(struct.pack("<I", sums[data_start]))
        entry += entry_bytes
