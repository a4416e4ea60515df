"""A GGUF file as transformers reads it, with what the file says and transformers leaves out put into its config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchtune.export._gguf_architectures import Architecture
from torchtune.export._gguf_pre_tokenizer import NOT_IN_TRANSFORMERS
from torchtune.export._gguf_rope import FACTORS, rope_parameters
from torchtune.export._gguf_tensors import import_gguf
from torchtune.export._readers import TransformersReader
from torchtune.export._source import Source


def gguf_reader(folder: Path, name: str, row: Architecture, source: Source) -> TransformersReader:
    """Transformers' reading of a file."""
    from transformers import AutoConfig

    file = import_gguf().GGUFReader(folder / name)
    numbers = {key.removeprefix(f"{row.name}."): field for key, field in file.fields.items()}
    pre = numbers["tokenizer.ggml.pre"].contents()
    numbers = {key: field.contents() for key, field in numbers.items() if not key.startswith("tokenizer.")}
    config = AutoConfig.from_pretrained(folder, gguf_file=name, local_files_only=True)
    vectors = {t.name: torch.from_numpy(t.data.copy()) for t in file.tensors if t.name.startswith("rope_")}
    names = {t.name for t in file.tensors}
    for key, value in _unread(row, numbers, names).items():
        if hasattr(config, key):
            setattr(config, key, value)
    _set_positions(config, numbers, vectors)
    unknown = f"transformers has not the code that cuts texts here ({pre}), so tokens of texts were not compared"
    return TransformersReader(
        folder,
        source,
        gguf_file=name,
        config=config,
        rope_factors=vectors.get(FACTORS),
        notes=[unknown] if pre in NOT_IN_TRANSFORMERS else [],
    )


def _unread(row: Architecture, numbers: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    sizes = ("block_count", "embedding_length", "attention.head_count", "attention.key_length")
    return {
        "attention_bias": "blk.0.attn_output.bias" in names,
        "attn_logit_softcapping": numbers.get("attn_logit_softcapping"),
        "final_logit_softcapping": numbers.get("final_logit_softcapping"),
        "head_dim": numbers["attention.key_length"],
        "mlp_bias": "blk.0.ffn_down.bias" in names,
        "moe_intermediate_size": numbers.get("expert_feed_forward_length"),
        "query_pre_attn_scalar": row.score_divisor(*(numbers[key] for key in sizes)),
    }


def _set_positions(config: Any, numbers: Mapping[str, Any], vectors: Mapping[str, Tensor]) -> None:
    found = rope_parameters(numbers, vectors)
    near = (config.rope_parameters or {}).get("sliding_attention")
    config.rope_parameters = {"sliding_attention": near, "full_attention": found} if near else found
    if original := found.get("original_max_position_embeddings"):
        config.original_max_position_embeddings = original
