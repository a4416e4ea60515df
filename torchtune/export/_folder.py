"""What the formats share that are a folder of one of our checkpointers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.export import Options
from torchtune.export._source import Source
from torchtune.export._write import Plan
from torchtune.training.checkpointing import Checkpointer
from torchtune.training.checkpointing.hf import parse_size

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def folder_plan(
    kind: type[Checkpointer],
    source: Source,
    options: Options,
    reader: Callable[[Path], Any],
    read_with: tuple[str, ...] = ("torch",),
) -> Plan:
    """Everything that lies beside the source's config, and the weights as a checkpointer writes them."""
    dtype = _DTYPES.get(options.dtype)
    shapes = {name: (shape, dtype or saved) for name, (shape, saved) in source.saved.items()}
    loses = any(
        torch.promote_types(saved, kept) != kept
        for (_, saved), (_, kept) in zip(source.saved.values(), shapes.values())
    )
    size = {"max_shard_size": parse_size(options.max_shard_size)} if options.max_shard_size else {}
    return Plan(
        num_bytes=sum(torch.Size(shape).numel() * kept.itemsize for shape, kept in shapes.values()),
        write=lambda folder: kind(source.folder).write(folder, _cast(source, dtype), shapes, **size),
        reader=reader,
        read_with=read_with,
        kept=(lambda name, tensor: tensor.to(dtype)) if loses else None,
    )


def _cast(source: Source, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in source.weights():
        kept = tensor if dtype is None else tensor.to(dtype)
        refuse_overflow(name, tensor, kept)
        yield name, kept


def refuse_overflow(name: str, before: Tensor, after: Tensor) -> None:
    """Refuse a number type that is too small for a weight.

    Raises:
        CheckpointError: a finite weight became infinite.
    """
    if after.dtype == torch.float16 != before.dtype and after.isinf().any() and not before.isinf().any():
        raise CheckpointError(
            f"{name} has values up to {before.abs().max():.4g}, more than 16-bit floats hold; take bf16"
        )
