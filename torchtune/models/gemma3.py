"""Gemma 3 (https://arxiv.org/abs/2503.19786), the language model. Rows: ``config.json`` of each checkpoint at
https://huggingface.co/google.
"""

from collections import ChainMap
from collections.abc import Mapping
from functools import partial
from typing import Any

from torchtune.errors import CheckpointError
from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._family import Family
from torchtune.models._gemma_tokenizer import Gemma3ChatTemplate, GemmaTokenizer, gemma_tokenizer
from torchtune.models._hf_config import layer_types
from torchtune.models._rope import Rope
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.models.gemma import SHARED
from torchtune.models.gemma2 import SANDWICH_NORMS, parts
from torchtune.modules import TransformerDecoder

__all__ = [
    "Gemma3ChatTemplate", "GemmaTokenizer", "gemma3", "gemma3_1b", "gemma3_4b", "gemma3_12b", "gemma3_27b",
    "gemma3_270m", "gemma_tokenizer", "lora_gemma3", "lora_gemma3_1b", "lora_gemma3_4b", "lora_gemma3_12b",
    "lora_gemma3_27b", "lora_gemma3_270m", "qlora_gemma3_1b", "qlora_gemma3_4b", "qlora_gemma3_12b",
    "qlora_gemma3_27b", "qlora_gemma3_270m",
]  # fmt: skip

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_PERIOD = 6  # five local layers, then a global one
_BASES = {_LOCAL: 10_000.0, _GLOBAL: 1_000_000.0}


def _ropes(config: Mapping[str, Any]) -> dict[str, Rope]:
    """Those of each type of layer; transformers 4 has a key for each number, and scales the global ones only."""
    found = config.get("rope_parameters") or {
        _LOCAL: {"rope_theta": config.get("rope_local_base_freq")},
        _GLOBAL: {"rope_theta": config.get("rope_theta")} | (config.get("rope_scaling") or {}),
    }
    if unknown := sorted(found.keys() - _BASES.keys()):
        raise CheckpointError(f"config.json's rope_parameters have {unknown}; expected those of {[*_BASES]}")
    of_kind = {k: {"rope_parameters": found.get(k) or {}, "rope_theta": base} for k, base in _BASES.items()}
    return {kind: Rope.from_hf(ChainMap(own, config), interleaved=False) for kind, own in of_kind.items()}


def _arch(config: Mapping[str, Any]) -> Arch:
    period = config.get("sliding_window_pattern") or _PERIOD
    kinds = layer_types(config, [_LOCAL] * (period - 1) + [_GLOBAL])
    windows, ropes = {_LOCAL: config.get("sliding_window"), _GLOBAL: None}, _ropes(config)
    return Arch.from_hf(
        config,
        ropes=tuple(ropes[kind] for kind in kinds),
        windows=tuple(windows[kind] for kind in kinds),
        attn_scale=config["query_pre_attn_scalar"] ** -0.5,
        qk_norm=True,
    )


_QK_NORMS = {f"model.layers.{{}}.self_attn.{x}_norm.weight": f"layers.{{}}.attn.{x}_norm.scale" for x in "qk"}
GEMMA3 = Family(
    name="gemma3",
    arch=_arch,
    hf=WeightMap(HF_DECODER | SANDWICH_NORMS | _QK_NORMS, rotary=()),
    parts=lambda config: parts(config.get("final_logit_softcapping")),
)

_ROWS = {"vocab_size": 262_208, "max_seq_len": 131_072, "rope_scale_factor": 8.0}
_SMALL = {
    "vocab_size": 262_144,
    "num_heads": 4,
    "num_kv_heads": 1,
    "max_seq_len": 32_768,
    "sliding_window_size": 512,
}
_270M = _SMALL | {"num_layers": 18, "embed_dim": 640, "intermediate_dim": 2048}
_1B = _SMALL | {"num_layers": 26, "embed_dim": 1152, "intermediate_dim": 6912}
_4B = _ROWS | {"num_layers": 34, "num_heads": 8, "num_kv_heads": 4, "embed_dim": 2560, "intermediate_dim": 10_240}
_12B = _ROWS | {"num_layers": 48, "num_heads": 16, "num_kv_heads": 8, "embed_dim": 3840, "intermediate_dim": 15_360}
_27B = _ROWS | {
    "num_layers": 62,
    "num_heads": 32,
    "num_kv_heads": 16,
    "head_dim": 128,
    "embed_dim": 5376,
    "intermediate_dim": 21_504,
    "query_pre_attn_scalar": 168,
}


def gemma3(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    head_dim: int = 256,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-6,
    rope_base: float = 1_000_000,
    local_rope_base: float = 10_000,
    rope_scale_factor: float | None = None,
    sliding_window_size: int = 1024,
    query_pre_attn_scalar: int | None = None,
) -> TransformerDecoder:
    """A Gemma 3 decoder of any size.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
        rope_base: of every sixth layer, which sees all tokens; the others have ``local_rope_base``.
        rope_scale_factor: how many times slower positions turn in every sixth layer; None: not slower.
        sliding_window_size: tokens that the other layers look back; itself included.
        query_pre_attn_scalar: attention scores are divided by its square root; None: ``head_dim``.
    """
    given = locals()
    scalar, window = given.pop("query_pre_attn_scalar") or head_dim, given.pop("sliding_window_size")
    factor = given.pop("rope_scale_factor")
    scaling = None if factor is None else {"rope_type": "linear", "factor": factor}
    far = Rope(base=given.pop("rope_base"), interleaved=False, scaling=scaling)
    near = Rope(base=given.pop("local_rope_base"), interleaved=False)
    arch = Arch(
        **SHARED,
        **given,
        ropes=(near,) * (_PERIOD - 1) + (far,),
        windows=(window,) * (_PERIOD - 1) + (None,),
        attn_scale=scalar**-0.5,
        qk_norm=True,
    )
    return build_decoder(arch, parts(final_cap=None))


def gemma3_270m() -> TransformerDecoder:
    """Gemma 3 270M."""
    return gemma3(**_270M)


def gemma3_1b() -> TransformerDecoder:
    """Gemma 3 1B."""
    return gemma3(**_1B)


def gemma3_4b() -> TransformerDecoder:
    """Gemma 3 4B, without what reads images."""
    return gemma3(**_4B)


def gemma3_12b() -> TransformerDecoder:
    """Gemma 3 12B, without what reads images."""
    return gemma3(**_12B)


def gemma3_27b() -> TransformerDecoder:
    """Gemma 3 27B, without what reads images."""
    return gemma3(**_27B)


lora_gemma3 = with_lora(gemma3)
lora_gemma3_270m = with_lora(gemma3_270m)
lora_gemma3_1b = with_lora(gemma3_1b)
lora_gemma3_4b = with_lora(gemma3_4b)
lora_gemma3_12b = with_lora(gemma3_12b)
lora_gemma3_27b = with_lora(gemma3_27b)
qlora_gemma3_270m = partial(lora_gemma3_270m, quantize_base=True)
qlora_gemma3_1b = partial(lora_gemma3_1b, quantize_base=True)
qlora_gemma3_4b = partial(lora_gemma3_4b, quantize_base=True)
qlora_gemma3_12b = partial(lora_gemma3_12b, quantize_base=True)
qlora_gemma3_27b = partial(lora_gemma3_27b, quantize_base=True)
