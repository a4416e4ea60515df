"""GGUF, the one file that llama.cpp and programs built on it open
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.export import Options
from torchtune.export._gguf_architectures import ARCHITECTURES, Model, Number, architecture_of
from torchtune.export._gguf_reader import gguf_reader
from torchtune.export._gguf_rope import rope_numbers, rope_tensors
from torchtune.export._gguf_tensors import Storage, commonest_type, import_gguf
from torchtune.export._gguf_tokenizer import add_vocabulary, read_vocabulary
from torchtune.export._readers import TransformersReader
from torchtune.export._source import Source
from torchtune.export._write import Plan
from torchtune.models._decoder import llama_intermediate_dim
from torchtune.models._hf_config import HFConfig
from torchtune.models._tensor_forms import Write
from torchtune.models._weights import EMBEDDING
from torchtune.training.checkpointing._io import FileRecord, record_of

_QUANTIZED = ("Q8_0", "Q4_0")
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION, the layout of the blocks


def plan(source: Source, options: Options) -> Plan:
    """One file with weights, sizes, tokenizer and chat template.

    Raises:
        CheckpointError: llama.cpp has no such architecture or tokenizer; or the file is to be read back, and no other
            code here reads its architecture.
        MissingDependency: the package gguf is not installed.
    """
    return plan_of(GGUFFile(source, options.quantize), verify=options.verify)


def plan_of(file: "GGUFFile", *, verify: bool) -> Plan:
    """The plan of one file."""
    if verify:
        file.check_readable()
    packages = ("transformers", "gguf", "torch")
    kept = None if file.storage.is_exact else file.storage.kept
    return Plan(file.num_bytes, file.write, file.reader, packages, kept)


class GGUFFile:
    """What a GGUF file of a model will hold.

    Args:
        quantize: the type of matrices; None takes the checkpoint's.
    """

    def __init__(self, source: Source, quantize: str | None) -> None:
        self._gguf, self._source = import_gguf(), source
        self._row, arch = architecture_of(source.family.name), source.arch
        self._model = Model(HFConfig(source.config), *source.family.describe(source.config))
        self._row.check(self._model)
        self.type = quantize.upper() if quantize else commonest_type(source.saved)
        self.name = f"model-{self.type}.gguf"
        self._numbers = rope_numbers(self._row, arch) | self._row.numbers(self._model)
        self._vectors = rope_tensors(self._row, arch)
        self._writes = self._plan_writes()
        self.vocabulary = read_vocabulary(source.folder, source.config, source.saved[EMBEDDING][0][0])
        self.storage = Storage(self._row, arch, source.saved, self.type)

    def _plan_writes(self) -> list[Write]:
        try:
            return self._row.names.plan_write(self._source.saved, head_dim=None)
        except CheckpointError as e:
            raise CheckpointError(f"llama.cpp's architecture {self._row.name} lacks a tensor of this model: {e}") from e

    def check_readable(self) -> None:
        """Refuse to promise a check.

        Raises:
            CheckpointError: nobody else's code here reads such a file.
        """
        if not self._row.in_transformers:
            known = ", ".join(sorted({row.name for row in ARCHITECTURES.values() if row.in_transformers}))
            raise CheckpointError(
                f"a GGUF file of the family {self._source.family.name} cannot be checked: transformers does not read "
                f"it, but only {known}. Leave out --verify, or check the same model with --to hf"
            )

    @property
    def num_bytes(self) -> int:
        """Of all weights."""
        return sum(map(self.storage.num_bytes, self._source.saved))

    def write(self, folder: Path) -> dict[str, FileRecord]:
        """Write the file, one tensor in memory at a time; as many as are one there."""
        writer = self._gguf.GGUFWriter(folder / self.name, self._row.name)
        self._add_sizes(writer)
        add_vocabulary(writer, self.vocabulary)
        self._announce(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for vector in self._vectors.values():
            writer.write_tensor_data(vector.numpy())
        for tensors in self._by_write():
            writer.write_tensor_data(np.concatenate([self.storage.array(*named) for named in tensors.items()]))
        writer.close()
        return {self.name: record_of(folder / self.name)}

    def _by_write(self) -> Iterator[dict[str, Tensor]]:
        """The weights that each tensor of the file is made of."""
        waiting: dict[str, Tensor] = {}
        writes = iter(self._writes)
        natives = next(writes).natives
        for name, tensor in self._source.weights():
            waiting[name] = tensor
            if all(native in waiting for native in natives):
                yield {native: waiting.pop(native) for native in natives}
                natives = next(writes, Write("", ("",))).natives

    def _announce(self, writer: Any) -> None:
        """Names, shapes and types of the tensors, in the order in which they come."""
        for name, vector in self._vectors.items():
            writer.add_tensor_info(name, tuple(vector.shape), vector.numpy().dtype, vector.nbytes)
        for write in self._writes:
            shape, num_bytes, kind = self.storage.announcement(write)
            writer.add_tensor_info(write.foreign, shape, np.dtype(np.uint8), num_bytes, raw_dtype=kind)

    def _add_sizes(self, writer: Any) -> None:
        a = self._source.arch
        writer.add_name(self._source.name)
        writer.add_file_type(self._file_type())
        if self.type in _QUANTIZED:
            writer.add_quantization_version(_QUANTIZATION_VERSION)
        writer.add_vocab_size(self._source.saved[EMBEDDING][0][0])
        # Where no window is kept, that makes no difference up to its length.
        windows = () if self._row.period else a.windows
        writer.add_context_length(min(filter(None, (a.max_seq_len, *windows))))
        writer.add_embedding_length(a.embed_dim)
        writer.add_block_count(a.num_layers)
        writer.add_feed_forward_length(a.intermediate_dim or llama_intermediate_dim(a.embed_dim))
        writer.add_head_count(a.num_heads)
        writer.add_head_count_kv(a.num_kv_heads)
        writer.add_key_length(self._source.head_dim)
        writer.add_value_length(self._source.head_dim)
        writer.add_layer_norm_rms_eps(a.norm_eps)
        for key, value in self._numbers.items():
            _add_number(writer, f"{self._row.name}.{key}", value)

    def _file_type(self) -> int:
        kinds = self._gguf.LlamaFileType
        return kinds.ALL_F32 if self.type == "F32" else kinds[f"MOSTLY_{self.type}"]

    def reader(self, folder: Path) -> TransformersReader:
        """Transformers' reading of the file."""
        return gguf_reader(folder, self.name, self._row, self._source)


def _add_number(writer: Any, key: str, value: Number) -> None:
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add[type(value)](key, value)
