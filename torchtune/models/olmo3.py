"""OLMo 3 (https://arxiv.org/abs/2512.13961): an OLMo 2 in which three layers of four have a window. Rows:
``config.json`` of each checkpoint at https://huggingface.co/allenai, not compared with the files there.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torchtune.errors import CheckpointError
from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._family import Family
from torchtune.models._hf_config import layer_types
from torchtune.models._hf_tokenizer import hf_tokenizer
from torchtune.models._rope import Rope
from torchtune.models.olmo2 import NAMES, PARTS
from torchtune.modules import TransformerDecoder

__all__ = [
    "lora_olmo3", "lora_olmo3_7b", "lora_olmo3_32b", "olmo3", "olmo3_7b", "olmo3_32b", "olmo3_tokenizer",
    "qlora_olmo3_7b", "qlora_olmo3_32b",
]  # fmt: skip

_NEAR, _FAR = "sliding_attention", "full_attention"
_BY_TURNS = (_NEAR, _NEAR, _NEAR, _FAR)


def _ropes(config: Mapping[str, Any]) -> dict[str, Rope]:
    """Those of each type of layer; ``rope_scaling``, as transformers 4 has it, is of the layers that see all tokens."""
    found = config.get("rope_parameters") or {}
    if unknown := sorted(found.keys() - {_NEAR, _FAR}):
        raise CheckpointError(f"config.json's rope_parameters have {unknown}; expected those of {[_NEAR, _FAR]}")
    near, far = (Rope.from_hf(config, kind, interleaved=False) for kind in (_NEAR, _FAR))
    return {_NEAR: near if found else replace(near, scaling=None), _FAR: far}


def _arch(config: Mapping[str, Any]) -> Arch:
    kinds = layer_types(config, _BY_TURNS)
    windows, ropes = {_NEAR: config.get("sliding_window"), _FAR: None}, _ropes(config)
    return Arch.from_hf(
        config,
        biases=("attention_bias",),
        ropes=tuple(ropes[kind] for kind in kinds),
        windows=tuple(windows[kind] for kind in kinds),
    )


OLMO3 = Family(name="olmo3", arch=_arch, hf=NAMES, parts=lambda config: PARTS)

_SHARED = {"vocab_size": 100_278, "max_seq_len": 65_536, "rope_scale_factor": 8.0}
_7B = {"num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "embed_dim": 4096, "intermediate_dim": 11_008}
_32B = {"num_layers": 64, "num_heads": 40, "num_kv_heads": 8, "embed_dim": 5120, "intermediate_dim": 27_648}


def olmo3(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-6,
    rope_base: float = 500_000,
    rope_scale_factor: float | None = None,
    original_max_seq_len: int = 8192,
    sliding_window_size: int = 4096,
) -> TransformerDecoder:
    """An OLMo 3 decoder of any size.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
        rope_scale_factor: how many times every fourth layer, which sees all tokens, extends by YaRN the context of
            ``original_max_seq_len`` tokens; None: not at all.
        sliding_window_size: tokens that the other layers look back; itself included.
    """
    given = locals()
    window, factor = given.pop("sliding_window_size"), given.pop("rope_scale_factor")
    yarn = {"factor": factor, "original_max_position_embeddings": given.pop("original_max_seq_len")}
    near = Rope(base=given.pop("rope_base"), interleaved=False)
    ropes = {_NEAR: near, _FAR: replace(near, scaling=factor and {"rope_type": "yarn"} | yarn)}
    windows = {_NEAR: window, _FAR: None}
    pattern = {name: tuple(of[kind] for kind in _BY_TURNS) for name, of in (("ropes", ropes), ("windows", windows))}
    return build_decoder(Arch(**given, **pattern), PARTS)


def olmo3_7b() -> TransformerDecoder:
    """OLMo 3 7B."""
    return olmo3(**_SHARED, **_7B)


def olmo3_32b() -> TransformerDecoder:
    """OLMo 3 and 3.1 32B."""
    return olmo3(**_SHARED, **_32B)


olmo3_tokenizer = hf_tokenizer
lora_olmo3 = with_lora(olmo3)
lora_olmo3_7b = with_lora(olmo3_7b)
lora_olmo3_32b = with_lora(olmo3_32b)
qlora_olmo3_7b = partial(lora_olmo3_7b, quantize_base=True)
qlora_olmo3_32b = partial(lora_olmo3_32b, quantize_base=True)
