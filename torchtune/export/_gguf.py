"""GGUF, the one file that llama.cpp and programs built on it open
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from collections import Counter
from importlib import import_module
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchtune.errors import CheckpointError, MissingDependency
from torchtune.export import Options
from torchtune.export._folder import refuse_overflow
from torchtune.export._gguf_tokenizer import add_vocabulary, read_vocabulary
from torchtune.export._readers import TransformersReader
from torchtune.export._source import Source
from torchtune.export._write import Plan
from torchtune.models._decoder import Arch, llama_intermediate_dim
from torchtune.models._weights import EMBEDDING, OUTPUT, WeightMap
from torchtune.modules import RotaryPositionalEmbeddings
from torchtune.training.checkpointing._io import FileRecord, record_of

# Our families' architectures there, and the names of tensors. RoPE's pairs lie side by side there as here.
_ARCHITECTURES = {
    "llama": WeightMap(
        {
            "token_embd": "tok_embeddings",
            "blk.{}.attn_norm.weight": "layers.{}.sa_norm.scale",
            "blk.{}.attn_q": "layers.{}.attn.q_proj",
            "blk.{}.attn_k": "layers.{}.attn.k_proj",
            "blk.{}.attn_v": "layers.{}.attn.v_proj",
            "blk.{}.attn_output": "layers.{}.attn.output_proj",
            "blk.{}.ffn_norm.weight": "layers.{}.mlp_norm.scale",
            "blk.{}.ffn_gate": "layers.{}.mlp.w1",
            "blk.{}.ffn_down": "layers.{}.mlp.w2",
            "blk.{}.ffn_up": "layers.{}.mlp.w3",
            "output_norm.weight": "norm.scale",
            "output": "output",
        },
        rotary=(),
    )
}
_ROPE_FACTORS = "rope_freqs.weight"
_OF_DTYPE = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_QUANTIZED = ("Q8_0", "Q4_0")
_NUMBERS_AT_ONCE = 1 << 22
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION, the layout of the blocks


def plan(source: Source, options: Options) -> Plan:
    """One file with weights, sizes, tokenizer and chat template.

    Raises:
        CheckpointError: llama.cpp has no such architecture or tokenizer.
        MissingDependency: the package gguf is not installed.
    """
    return plan_of(GGUFFile(source, options.quantize))


def plan_of(file: "GGUFFile") -> Plan:
    """The plan of one file."""
    packages = ("transformers", "gguf", "torch")
    return Plan(file.num_bytes, file.write, file.reader, packages, None if file.is_exact else file.kept)


class GGUFFile:
    """What a GGUF file of a model will hold.

    Args:
        quantize: the type of matrices; None takes the checkpoint's.
    """

    def __init__(self, source: Source, quantize: str | None) -> None:
        self._gguf, self._source = _import_gguf(), source
        if source.family.name not in _ARCHITECTURES:
            raise CheckpointError(f"GGUF of {source.family.name} is not known here; known are {list(_ARCHITECTURES)}")
        self.type = quantize.upper() if quantize else _commonest_type(source)
        self.name = f"model-{self.type}.gguf"
        self.vocabulary = read_vocabulary(source.folder, source.config, source.saved[EMBEDDING][0][0])
        self._types = {name: self._type_of(name, shape) for name, (shape, _) in source.saved.items()}
        self._factors = rope_factors(source.arch)

    def _type_of(self, name: str, shape: tuple[int, ...]) -> str:
        """Vectors stay exact; what has rows of no whole number of blocks gets 16 bits; so do 4 bits become 8 where
        tokens go in and out, which are the most sensitive.
        """
        if len(shape) == 1:
            return "F32"
        wanted = "Q8_0" if self.type == "Q4_0" and name in (EMBEDDING, OUTPUT) else self.type
        return wanted if shape[-1] % self._block(wanted)[0] == 0 else "F16"

    def _block(self, kind: str) -> tuple[int, int]:
        """Numbers and bytes of a block."""
        return self._gguf.GGML_QUANT_SIZES[self._gguf.GGMLQuantizationType[kind]]

    def _bytes_of(self, name: str) -> int:
        numbers, size = self._block(self._types[name])
        return prod(self._source.saved[name][0]) // numbers * size

    @property
    def num_bytes(self) -> int:
        """Of all weights."""
        return sum(map(self._bytes_of, self._types))

    @property
    def is_exact(self) -> bool:
        """Whether every number is in the file as it is in the checkpoint."""
        return all(kind in ("F32", _OF_DTYPE.get(self._source.saved[name][1])) for name, kind in self._types.items())

    def kept(self, name: str, tensor: Tensor) -> Tensor:
        """A weight as the file's reader will see it."""
        kind = self._gguf.GGMLQuantizationType[self._types[name]]
        return torch.from_numpy(self._gguf.dequantize(self._array(name, tensor), kind)).view(tensor.shape)

    def _array(self, name: str, tensor: Tensor) -> np.ndarray:
        """The bytes of a weight; made some rows at a time, since quantising takes several times their room."""
        kind = self._gguf.GGMLQuantizationType[self._types[name]]
        if kind.name == "F16":
            refuse_overflow(name, tensor, tensor.half())
        rows = tensor if tensor.dim() > 1 else tensor[None]
        made = np.empty(self._gguf.quants.quant_shape_to_byte_shape(tuple(rows.shape), kind), np.uint8)
        step = max(1, _NUMBERS_AT_ONCE // rows.shape[1])
        for start in range(0, len(made), step):
            numbers = rows[start : start + step].float().numpy()
            made[start : start + step] = self._gguf.quantize(numbers, kind).view(np.uint8)
        return made

    def write(self, folder: Path) -> dict[str, FileRecord]:
        """Write the file, one tensor in memory at a time."""
        writer = self._gguf.GGUFWriter(folder / self.name, self._source.family.name)
        self._add_sizes(writer)
        add_vocabulary(writer, self.vocabulary)
        self._announce(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if self._factors is not None:
            writer.write_tensor_data(self._factors.numpy())
        for name, tensor in self._source.weights():
            writer.write_tensor_data(self._array(name, tensor))
        writer.close()
        return {self.name: record_of(folder / self.name)}

    def _announce(self, writer: Any) -> None:
        """Names, shapes and types of the tensors, in the order in which they come."""
        types = self._gguf.GGMLQuantizationType
        if self._factors is not None:
            shape = tuple(self._factors.shape)
            writer.add_tensor_info(_ROPE_FACTORS, shape, self._factors.numpy().dtype, self._factors.nbytes)
        names = _ARCHITECTURES[self._source.family.name]
        for write in names.plan_write(self._source.saved, head_dim=None):
            (name,) = write.natives
            shape, kind = self._source.saved[name][0], types[self._types[name]]
            in_bytes = self._gguf.quants.quant_shape_to_byte_shape(shape, kind)
            writer.add_tensor_info(write.foreign, in_bytes, np.dtype(np.uint8), self._bytes_of(name), raw_dtype=kind)

    def _add_sizes(self, writer: Any) -> None:
        a = self._source.arch
        writer.add_name(self._source.name)
        writer.add_file_type(self._file_type())
        if self.type in _QUANTIZED:
            writer.add_quantization_version(_QUANTIZATION_VERSION)
        writer.add_vocab_size(self._source.saved[EMBEDDING][0][0])
        writer.add_context_length(a.max_seq_len)
        writer.add_embedding_length(a.embed_dim)
        writer.add_block_count(a.num_layers)
        writer.add_feed_forward_length(a.intermediate_dim or llama_intermediate_dim(a.embed_dim))
        writer.add_head_count(a.num_heads)
        writer.add_head_count_kv(a.num_kv_heads)
        writer.add_key_length(self._source.head_dim)
        writer.add_value_length(self._source.head_dim)
        writer.add_layer_norm_rms_eps(a.norm_eps)
        writer.add_rope_dimension_count(self._source.head_dim)
        writer.add_rope_freq_base(a.ropes[0].base)

    def _file_type(self) -> int:
        kinds = self._gguf.LlamaFileType
        return kinds.ALL_F32 if self.type == "F32" else kinds[f"MOSTLY_{self.type}"]

    def reader(self, folder: Path) -> TransformersReader:
        """Transformers' reading of the file."""
        tensors = {tensor.name: tensor for tensor in self._gguf.GGUFReader(folder / self.name).tensors}
        found = tensors.get(_ROPE_FACTORS)
        factors = None if found is None else torch.from_numpy(found.data.copy())
        return TransformersReader(folder, self._source, gguf_file=self.name, rope_factors=factors)


def _import_gguf() -> ModuleType:
    try:
        return import_module("gguf")
    except ModuleNotFoundError as e:
        raise MissingDependency("a GGUF file needs the package gguf, which is not installed: pip install gguf") from e


def _commonest_type(source: Source) -> str:
    sizes: Counter[torch.dtype] = Counter()
    for shape, dtype in source.saved.values():
        sizes[dtype] += prod(shape)
    dtype = sizes.most_common(1)[0][0]
    if dtype not in _OF_DTYPE:
        raise CheckpointError(f"the checkpoint's weights are {dtype}; say what a GGUF file is to hold with --quantize")
    return _OF_DTYPE[dtype]


def rope_factors(a: Arch) -> Tensor | None:
    """What llama.cpp divides the frequencies of RoPE's pairs by, [head_dim / 2]; None where they are not scaled."""
    if a.ropes[0].scaling is None:
        return None
    rope = a.ropes[0].module(a.channels, max_seq_len=1)
    return RotaryPositionalEmbeddings.frequencies(rope) / rope.frequencies()
