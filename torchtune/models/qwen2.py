"""Qwen 2 (https://arxiv.org/abs/2407.10671). Rows: ``config.json`` of each checkpoint at https://huggingface.co/Qwen,
those of the instruct models.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchtune.errors import CheckpointError, ConfigError
from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._family import Family
from torchtune.models._qwen_tokenizers import QWEN2_SPECIAL_TOKENS, Qwen2Tokenizer, qwen2_tokenizer
from torchtune.models._rope import Rope
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules import RotaryPositionalEmbeddings, TransformerDecoder

__all__ = [
    "QWEN2_SPECIAL_TOKENS", "Qwen2RotaryPositionalEmbeddings", "Qwen2Tokenizer", "lora_qwen2", "lora_qwen2_0_5b",
    "lora_qwen2_1_5b", "lora_qwen2_7b", "lora_qwen2_72b", "qwen2", "qwen2_0_5b", "qwen2_1_5b", "qwen2_7b",
    "qwen2_72b", "qwen2_hf_to_tune", "qwen2_tokenizer", "qwen2_tune_to_hf",
]  # fmt: skip


def _arch(config: Mapping[str, Any]) -> Arch:
    rope = Rope.from_hf(config, interleaved=False)
    return Arch.from_hf(config, ropes=(rope,), windows=layer_windows(config), qkv_bias=True)


def layer_windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Keys that the queries of each layer see; where the layers' types are not listed, those from ``max_window_layers``
    on have the window, if it is used.

    Raises:
        CheckpointError: a type of layers is not known, or has a window that is not given.
    """
    used, window = config.get("use_sliding_window", False), config.get("sliding_window")
    first, types = config.get("max_window_layers", 28), config.get("layer_types")
    if types is None:
        layers = range(config.get("num_hidden_layers", 0))
        types = ["sliding_attention" if used and i >= first else "full_attention" for i in layers]
    known = {"full_attention": None} | ({"sliding_attention": window} if used and window else {})
    if unknown := set(types) - known.keys():
        raise CheckpointError(
            f"config.json has layers of type {min(unknown)!r}; with use_sliding_window {used!r} and sliding_window "
            f"{window!r}, {' and '.join(known)} can be"
        )
    return tuple(known[kind] for kind in types)


QWEN2 = Family(name="qwen2", arch=_arch, hf=WeightMap(HF_DECODER, rotary=()))

_SHARED = {"max_seq_len": 32_768, "norm_eps": 1e-6}
_SMALL = _SHARED | {"vocab_size": 151_936, "tie_word_embeddings": True}
_0_5B = _SMALL | {"num_layers": 24, "num_heads": 14, "num_kv_heads": 2, "embed_dim": 896, "intermediate_dim": 4864}
_1_5B = _SMALL | {"num_layers": 28, "num_heads": 12, "num_kv_heads": 2, "embed_dim": 1536, "intermediate_dim": 8960}
_LARGE = _SHARED | {"vocab_size": 152_064}
_7B = _LARGE | {"num_layers": 28, "num_heads": 28, "num_kv_heads": 4, "embed_dim": 3584, "intermediate_dim": 18_944}
_72B = _LARGE | {"num_layers": 80, "num_heads": 64, "num_kv_heads": 8, "embed_dim": 8192, "intermediate_dim": 29_568}


def qwen2(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    head_dim: int | None = None,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-5,
    rope_base: float = 1_000_000.0,
    tie_word_embeddings: bool = False,
    q_proj_bias: bool = True,
    k_proj_bias: bool = True,
    v_proj_bias: bool = True,
    q_norm: bool = False,
    k_norm: bool = False,
) -> TransformerDecoder:
    """A Qwen 2, 2.5 or 3 decoder of any size, without a window.

    Args:
        max_seq_len: tokens.
        head_dim: channels of one head; None: ``embed_dim // num_heads``.
        attn_dropout: share of attention weights dropped in training.
        tie_word_embeddings: the output projection shares the token embedding's weight.
        q_proj_bias: the projection has a bias; all three are alike.
        q_norm: each head of the queries is normalised before the positions; likewise the keys.

    Raises:
        ConfigError: the projections, or the norms, are not alike.
    """
    given = locals()
    biases = {given.pop(f"{name}_proj_bias") for name in "qkv"}
    norms = {given.pop("q_norm"), given.pop("k_norm")}
    if len(biases) > 1 or len(norms) > 1:
        raise ConfigError("q_proj_bias, k_proj_bias and v_proj_bias must be equal, and q_norm and k_norm too")
    given |= {"tied": given.pop("tie_word_embeddings"), "qkv_bias": biases.pop(), "qk_norm": norms.pop()}
    return build_decoder(Arch.with_rope(interleaved=False, **given))


def qwen2_0_5b() -> TransformerDecoder:
    """Qwen 2 0.5B."""
    return qwen2(**_0_5B)


def qwen2_1_5b() -> TransformerDecoder:
    """Qwen 2 1.5B."""
    return qwen2(**_1_5B)


def qwen2_7b() -> TransformerDecoder:
    """Qwen 2 7B."""
    return qwen2(**_7B)


def qwen2_72b() -> TransformerDecoder:
    """Qwen 2 72B."""
    return qwen2(**_72B)


lora_qwen2 = with_lora(qwen2)
lora_qwen2_0_5b = with_lora(qwen2_0_5b)
lora_qwen2_1_5b = with_lora(qwen2_1_5b)
lora_qwen2_7b = with_lora(qwen2_7b)
lora_qwen2_72b = with_lora(qwen2_72b)


class Qwen2RotaryPositionalEmbeddings(RotaryPositionalEmbeddings):
    """Rotary positions in Hugging Face's order of channels; see the base class."""

    def __init__(self, dim: int, max_seq_len: int = 4096, base: float = 1_000_000.0) -> None:
        super().__init__(dim, max_seq_len, base, interleaved=False)

    def forward(self, x: Tensor, input_pos: Tensor | None = None) -> Tensor:
        return super().forward(x, input_pos=input_pos)


def qwen2_hf_to_tune(
    state_dict: dict[str, Tensor],
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
    tie_word_embeddings: bool = False,
) -> dict[str, Tensor]:
    """A state dict with our names, of one with Hugging Face's; the order of channels is the same.

    Args:
        num_heads: accepted for old callers, as are the other sizes; the tensors' own shapes say them.
        tie_word_embeddings: leave out a copy of the token embedding as the output projection.

    Raises:
        CheckpointError: a tensor has no name here.
    """
    return QWEN2.hf.to_native(_without("lm_head.weight" if tie_word_embeddings else None, state_dict))


def qwen2_tune_to_hf(
    state_dict: dict[str, Tensor],
    num_heads: int = 32,
    num_kv_heads: int = 32,
    dim: int = 4096,
    head_dim: int | None = None,
    tie_word_embeddings: bool = False,
) -> dict[str, Tensor]:
    """The inverse of :func:`qwen2_hf_to_tune`."""
    return QWEN2.hf.to_foreign(_without("output.weight" if tie_word_embeddings else None, state_dict))


def _without(left_out: str | None, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state_dict.items() if name != left_out}
