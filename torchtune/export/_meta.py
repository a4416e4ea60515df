"""Meta's layout: ``consolidated.00.pth``, ``params.json`` and ``tokenizer.model``."""

from dataclasses import replace
from math import gcd
from pathlib import Path
from typing import Any

from torchtune.errors import CheckpointError
from torchtune.export import Options
from torchtune.export._folder import folder_plan
from torchtune.export._readers import OwnReader
from torchtune.export._source import Source
from torchtune.export._write import Plan
from torchtune.models._decoder import Arch, llama_intermediate_dim
from torchtune.training.checkpointing import FullModelMetaCheckpointer
from torchtune.training.checkpointing._io import FileRecord, copy_file, write_json

_PARAMS, _TOKENIZER = "params.json", "tokenizer.model"


def plan(source: Source, options: Options) -> Plan:
    """One file of weights, and its sizes as Meta's reader takes them.

    Raises:
        CheckpointError: the model is no Llama, or its sizes cannot be said in that way.
    """
    if source.family.name != "llama":
        raise CheckpointError(f"Meta's format is that of Llama, and the model is of the family {source.family.name}")
    params = meta_params(source.arch)
    whole = folder_plan(FullModelMetaCheckpointer, source, options, lambda folder: OwnReader.of_folder(folder, source))

    def write(folder: Path) -> dict[str, FileRecord]:
        return {**whole.write(folder), **_own_files(source, folder, params)}

    return replace(whole, write=write)


def _own_files(source: Source, folder: Path, params: dict[str, Any]) -> dict[str, FileRecord]:
    """What Meta's reader looks for beside the weights: the sizes, and the tokenizer where there is one."""
    records = {_PARAMS: write_json(folder / _PARAMS, params)}
    tokenizer = source.folder / "original" / _TOKENIZER
    if not (folder / _TOKENIZER).exists() and tokenizer.is_file():
        records[_TOKENIZER] = copy_file(tokenizer, folder / _TOKENIZER)
    return records


def meta_params(a: Arch) -> dict[str, Any]:
    """``params.json`` (https://github.com/meta-llama/llama-models/blob/main/models/llama3/args.py).

    Raises:
        CheckpointError: Meta's format has no word for the size of the heads.
    """
    if a.head_dim not in (None, a.embed_dim // a.num_heads):
        raise CheckpointError(
            f"its heads have {a.head_dim} channels, but Meta's format knows only {a.embed_dim} / {a.num_heads}"
        )
    params = {
        "dim": a.embed_dim,
        "n_layers": a.num_layers,
        "n_heads": a.num_heads,
        "n_kv_heads": a.num_kv_heads,
        "vocab_size": a.vocab_size,
        "norm_eps": a.norm_eps,
        "rope_theta": a.ropes[0].base,
        "use_scaled_rope": a.ropes[0].scaling is not None,
    }
    return params | _feed_forward(a)


def _feed_forward(a: Arch) -> dict[str, Any]:
    """Meta derives the width from ``dim``: a multiplier of two thirds of ``4 dim``, rounded up to a multiple."""
    width = a.intermediate_dim or llama_intermediate_dim(a.embed_dim)
    if width == llama_intermediate_dim(a.embed_dim):
        return {"multiple_of": 256}
    return {"multiple_of": gcd(width, 1024), "ffn_dim_multiplier": width / int(8 * a.embed_dim / 3)}
