"""Hugging Face's layout with weights that torchao has quantised, as transformers 5 reads and writes it.

A quantised tensor lies in safetensors as the plain tensors that it is made of (``q_proj._weight_qdata``,
``q_proj._weight_scale``, ...). The rest of it is JSON in the file's header, so that nothing is unpickled, and
``config.json`` tells under ``quantization_config`` how it was made.
"""

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.training._torchao import as_json, put_together, quantised, take_apart, torchao
from torchtune.training.checkpointing._base import FullModelCheckpointer
from torchtune.training.checkpointing._io import FileRecord
from torchtune.training.checkpointing._safetensors import Info, SafetensorsFile
from torchtune.training.checkpointing._source import Files, Tensors
from torchtune.training.checkpointing.hf import FullModelHFCheckpointer

_PLAIN = '{"_type": "Tensor"}'


class QuantisedFiles:
    """The tensors of several files, with the quantised ones put together.

    Raises:
        CheckpointError: a file cannot be read, or its header does not describe its tensors.
    """

    def __init__(self, paths: list[Path]) -> None:
        torchao()
        self._files = Files(paths)
        headers = {name: text for path in paths for name, text in SafetensorsFile(path).metadata.items()}
        self._texts = {name: text for name, text in headers.items() if "." in name and text != _PLAIN}
        self._parts = {name: self._parts_of(name) for name in self._texts}
        owners = {file_name: name for name, parts in self._parts.items() for file_name in parts.values()}
        self.infos = {owners.get(name, name): info for name, info in self._files.infos.items()}
        for name in self._texts:
            whole = self._put_together(name, self._without_storage)
            self.infos[name] = Info(tuple(whole.shape), whole.dtype)

    def where(self, name: str) -> str:
        return self._files.where(next(iter(self._parts.get(name, {}).values()), name))

    def read(self, name: str, rows: tuple[int, int] | None = None) -> Tensor:
        if name not in self._texts:
            return self._files.read(name, rows)
        whole = self._put_together(name, self._files.read)
        return whole if rows is None else whole[slice(*rows)]

    def _parts_of(self, name: str) -> dict[str, str]:
        """torchao's name of each part -> its name in the files."""
        try:
            parts = {part: part_name(name, part) for part in json.loads(self._texts[name])["_tensor_data_names"]}
        except (ValueError, TypeError, KeyError) as e:
            raise CheckpointError(f"the header's entry for {name} is not a tensor's: {self._texts[name][:200]}") from e
        if absent := [file_name for file_name in parts.values() if file_name not in self._files.infos]:
            raise CheckpointError(f"the header says that {name} has the part {absent[0]}, which no file has")
        return parts

    def _without_storage(self, name: str) -> Tensor:
        info = self._files.infos[name]
        return torch.empty(info.shape, dtype=info.dtype, device="meta")

    def _put_together(self, name: str, read: Callable[[str], Tensor]) -> Tensor:
        try:
            return put_together({part: read(n) for part, n in self._parts[name].items()}, self._texts[name])
        except ValueError as e:
            raise CheckpointError(f"{name} in {self.where(name)} is damaged, or of another torchao: {e}") from e


class QuantisedReader(FullModelHFCheckpointer):
    """Reads what :class:`QuantisedWriter` or transformers wrote; ``weights`` gives torchao's tensors among others.

    The rows of query and key projections stay in the order that transformers wants for RoPE, since not every packed
    format lets rows change places.
    """

    def __init__(self, folder: FullModelHFCheckpointer) -> None:
        super().__init__(str(folder.checkpoint_dir), folder._files, folder.model_type)

    def _read_folder(self) -> None:
        super()._read_folder()
        self._head_dim = None  # with no size of a head, no channels are reordered

    def _open(self, paths: list[Path]) -> Tensors:
        if unsafe := [path.name for path in paths if path.suffix != ".safetensors"]:
            raise CheckpointError(
                f"{self.checkpoint_dir / unsafe[0]} may hold code: quantised weights are read from safetensors only"
            )
        return QuantisedFiles(paths)


class QuantisedWriter(FullModelHFCheckpointer):
    """Writes a model whose tensors it quantises one at a time.

    Args:
        source: reads the model; its folder has the ``config.json``, the tokenizer and all else that goes along.
        config: torchao's, for all of ``names``.
        names: the model's weights that are quantised.
        device: where they are quantised.
    """

    def __init__(
        self, source: FullModelCheckpointer, config: Any, names: Collection[str], device: torch.device
    ) -> None:
        super().__init__(str(source.checkpoint_dir), model_type=source.model_type)
        self._quantise = lambda weight: quantised(weight.to(device), config)
        self._quantised_names = {w.foreign for w in self.family.hf.plan_write(names, head_dim=None)}
        # https://huggingface.co/docs/transformers/quantization/torchao
        self._quantization_config = {"quant_method": "torchao", "quant_type": {"default": as_json(config)}}

    def _write_weights(
        self, folder: Path, infos: dict[str, Info], tensors: Iterator[tuple[str, Tensor]], max_shard_size: int | str
    ) -> dict[str, FileRecord]:
        layouts = {info: self._layout(info) for info in {infos[name] for name in self._quantised_names}}
        headers, parts = {}, {}
        for name, info in infos.items():
            if name not in self._quantised_names:
                headers[name], parts[name] = _PLAIN, info
                continue
            layout, headers[name] = layouts[info]
            parts |= {part_name(name, part): part_info for part, part_info in layout.items()}
        headers["tensor_names"] = json.dumps(list(infos))
        records = self._write_shards(folder, parts, self._in_parts(tensors), max_shard_size, headers)
        changes = self._config_changes(infos) | {"quantization_config": self._quantization_config}
        return records | self._write_rest(folder, changes)

    def _layout(self, info: Info) -> tuple[dict[str, Info], str]:
        """The parts of a quantised tensor and the text beside them, which depend on nothing but its shape and dtype.

        Found out by quantising zeros, since all headers have to be known before the first tensor is read.
        """
        parts, text = take_apart(self._quantise(torch.zeros(info.shape, dtype=info.dtype)))
        return {part: Info(tuple(tensor.shape), tensor.dtype) for part, tensor in parts.items()}, text

    def _in_parts(self, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors:
            if name in self._quantised_names:
                for part, value in take_apart(self._quantise(tensor))[0].items():
                    yield part_name(name, part), value.cpu()
            else:
                yield name, tensor


def part_name(name: str, part: str) -> str:
    """What a file calls a part of a quantised tensor: ``q_proj.weight``, ``scale`` -> ``q_proj._weight_scale``."""
    module, _, leaf = name.rpartition(".")
    return f"{module}._{leaf}_{part}"
