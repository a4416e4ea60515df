"""Phi 3 (https://arxiv.org/abs/2404.14219), and what Phi 4 shares with it. Rows: ``config.json`` of each checkpoint at
https://huggingface.co/microsoft.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._family import Family
from torchtune.models._phi_tokenizers import Phi3MiniTokenizer, phi3_mini_tokenizer
from torchtune.models._rope import Rope
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules import RotaryPositionalEmbeddings, TransformerDecoder

__all__ = [
    "Phi3MiniTokenizer", "Phi3RotaryPositionalEmbeddings", "lora_phi3", "lora_phi3_mini", "lora_phi3_mini_128k",
    "phi3", "phi3_hf_to_tune", "phi3_mini", "phi3_mini_128k", "phi3_mini_tokenizer", "phi3_tune_to_hf",
    "qlora_phi3_mini", "qlora_phi3_mini_128k",
]  # fmt: skip

_FUSED = {
    "model.layers.{}.self_attn.qkv_proj": tuple(f"layers.{{}}.attn.{name}_proj" for name in "qkv"),
    "model.layers.{}.mlp.gate_up_proj": ("layers.{}.mlp.w1", "layers.{}.mlp.w3"),
}
_PARTS = {part for parts in _FUSED.values() for part in parts}
_HF = WeightMap({theirs: ours for theirs, ours in HF_DECODER.items() if ours not in _PARTS} | _FUSED, rotary=())
_APART = WeightMap(HF_DECODER, rotary=())
# Where a config.json has these, the decoder is the one here only with these values.
_ONLY = {"resid_pdrop": 0, "embd_pdrop": 0, "full_attn_mod": 1, "interpolate_factor": 1}


def _arch(config: Mapping[str, Any]) -> Arch:
    for key, value in _ONLY.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"config.json has {key}: {config[key]}; this decoder knows only {value}")
    config.get("original_max_position_embeddings")  # Phi 3 has it without a scaled RoPE too, and then it says nothing
    ropes = (Rope.from_hf(config, interleaved=False),)
    return Arch.from_hf(config, ropes=ropes, windows=(config.get("sliding_window"),))


PHI3 = Family(name="phi3", arch=_arch, hf=_HF)

_MINI = {
    "vocab_size": 32_064,
    "num_layers": 32,
    "num_heads": 32,
    "num_kv_heads": 32,
    "embed_dim": 3072,
    "intermediate_dim": 8192,
    "norm_eps": 1e-5,
}
_MINI_4K = _MINI | {"max_seq_len": 4096, "windows": (2047,)}  # torchtune's form of it has no window
# Of July 2024. The window of 262,144 tokens is longer than any sequence.
_MINI_128K = _MINI | {
    "max_seq_len": 131_072,
    "scaling": {
        "rope_type": "longrope",
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "short_factor": [1.1] * 3 + [1.3, 1.35, 1.35, 1.4, 1.55] + [2.0] * 17 + [2.05] * 6
        + [2.1, 2.1, 2.15] + [2.25] * 5 + [2.4, 2.45, 2.5, 2.7, 2.7, 2.75, 2.8, 2.9, 3.05],
        "long_factor": [
            1.07, 1.12, 1.15, 1.42, 1.5699999, 1.8, 2.1299999, 2.1299999, 3.01, 5.9100003, 6.9500003, 9.070001, 9.93,
            10.71, 11.13, 14.61, 15.409999, 19.81, 37.28, 38.28, 38.6, 40.120003, 46.200005, 50.940006, 53.660007,
            54.93739, 56.89739, 57.287388, 59.987385, 60.867386, 60.887386, 61.717392, 62.917393, 62.957394, 63.417393,
            63.817394, 63.837395, 63.897396, 63.937397, 64.0674, 64.11435, 64.12435, 64.15435, 64.19435, 64.244354,
            64.574356, 64.69, 64.76,
        ],
    },
}  # fmt: skip


class Phi3RotaryPositionalEmbeddings(RotaryPositionalEmbeddings):
    """RoPE with pairs (i, i + dim / 2), in the order of the channels of Hugging Face's files.

    Args:
        max_seq_len: positions the angle cache covers.
        base: the slowest pair's wavelength is ``2 pi base`` tokens.
    """

    def __init__(self, dim: int, max_seq_len: int = 4096, base: float = 10_000) -> None:
        super().__init__(dim, max_seq_len, base, interleaved=False)

    def forward(self, x: Tensor, input_pos: Tensor | None = None) -> Tensor:
        return super().forward(x, input_pos=input_pos)


def phi3(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-5,
    rope_base: float = 10_000,
) -> TransformerDecoder:
    """A Phi 3 decoder of any size, without a window.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
    """
    return build_decoder(Arch.with_rope(interleaved=False, **locals()))


def phi3_mini() -> TransformerDecoder:
    """Phi 3 mini with a context of 4096 tokens, of which each sees the last 2047."""
    return build_decoder(Arch.with_rope(interleaved=False, **_MINI_4K))


def phi3_mini_128k() -> TransformerDecoder:
    """Phi 3 mini with a context of 131,072 tokens."""
    return build_decoder(Arch.with_rope(interleaved=False, **_MINI_128K))


def phi3_hf_to_tune(
    state_dict: dict[str, Tensor], num_heads: int | None, num_kv_heads: int | None, dim: int | None
) -> dict[str, Tensor]:
    """A state dict with our names, of one with Hugging Face's, whose fused projections are split.

    Args:
        num_heads, num_kv_heads: how queries, keys and values share their projection; None: alike.
        dim: accepted for old callers; the tensors say it.

    Raises:
        CheckpointError: a tensor has no name here.
    """
    queries, keys = num_heads or 1, num_kv_heads or num_heads or 1
    parts = {
        ".qkv_proj.": {".q_proj.": queries, ".k_proj.": keys, ".v_proj.": keys},
        ".gate_up_proj.": {".gate_proj.": 1, ".up_proj.": 1},
    }
    apart: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        fused = next((fused for fused in parts if fused in name), "")
        shares = parts.get(fused, {"": 1})
        pieces = tensor.split([len(tensor) * share // sum(shares.values()) for share in shares.values()])
        apart |= {name.replace(fused, part): piece for part, piece in zip(shares, pieces, strict=True)}
    return _APART.to_native(apart)


def phi3_tune_to_hf(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`phi3_hf_to_tune`."""
    return _HF.to_foreign(state_dict)


lora_phi3 = with_lora(phi3)
lora_phi3_mini = with_lora(phi3_mini)
lora_phi3_mini_128k = with_lora(phi3_mini_128k)
qlora_phi3_mini = partial(lora_phi3_mini, quantize_base=True)
qlora_phi3_mini_128k = partial(lora_phi3_mini_128k, quantize_base=True)
