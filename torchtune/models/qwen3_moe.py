"""Qwen 3 with experts (https://arxiv.org/abs/2505.09388). Rows: ``config.json`` of each checkpoint at
https://huggingface.co/Qwen.
"""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from torch import nn

from torchtune.errors import CheckpointError
from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, Parts, build_decoder, gated_mlp
from torchtune.models._family import Family
from torchtune.models._moe import number, routing_from_hf, sparse_mlp
from torchtune.models._qwen_tokenizers import Qwen3Tokenizer, qwen3_tokenizer
from torchtune.models._rope import Rope
from torchtune.models._tensor_forms import PerExpert
from torchtune.models._weights import WeightMap
from torchtune.models.qwen3 import QWEN3
from torchtune.modules import TransformerDecoder
from torchtune.modules.moe import softmax_over_all, softmax_over_chosen

__all__ = [
    "Qwen3Tokenizer", "lora_qwen3_30b_a3b", "lora_qwen3_235b_a22b", "lora_qwen3_moe", "qlora_qwen3_30b_a3b",
    "qlora_qwen3_235b_a22b", "qwen3_30b_a3b", "qwen3_235b_a22b", "qwen3_moe", "qwen3_tokenizer",
]  # fmt: skip


def _arch(config: Mapping[str, Any]) -> Arch:
    bias = config.get("attention_bias", False)
    return Arch.from_hf(
        config,
        ropes=(Rope.from_hf(config, interleaved=False),),
        windows=(_window(config),),
        qkv_bias=bias,
        output_proj_bias=bias,
        qk_norm=True,
        **routing_from_hf(config),
    )


def _window(config: Mapping[str, Any]) -> int | None:
    """The window of all layers: transformers 5 gives it to all, 4 only to those from ``max_window_layers`` on."""
    used, window, first = (config.get(k) for k in ("use_sliding_window", "sliding_window", "max_window_layers"))
    if used and first:
        raise CheckpointError(
            f"config.json has a window from layer {first} on (max_window_layers), which versions of transformers "
            "understand differently; set use_sliding_window to false, or max_window_layers to 0"
        )
    return window if used else None


def _parts(config: Mapping[str, Any]) -> Parts:
    return _parts_of(
        number(config, "moe_intermediate_size"),
        config.get("norm_topk_prob", False),
        config.get("decoder_sparse_step", 1),
        config.get("mlp_only_layers") or (),
    )


def _parts_of(
    moe_intermediate_dim: int, norm_topk_prob: bool, decoder_sparse_step: int, mlp_only_layers: Collection[int]
) -> Parts:
    choose = softmax_over_chosen if norm_topk_prob else softmax_over_all

    def mlp(a: Arch, layer: int) -> nn.Module:
        if layer in mlp_only_layers or (layer + 1) % decoder_sparse_step:
            return gated_mlp(a, layer)
        return sparse_mlp(a, layer, choose=choose, intermediate_dim=moe_intermediate_dim)

    return Parts(mlp=mlp)


NAMES = WeightMap(
    QWEN3.hf.rules
    | {
        "model.layers.{}.mlp.gate": "layers.{}.mlp.router.gate",
        "model.layers.{}.mlp.experts.{}.gate_proj.weight": PerExpert("layers.{}.mlp.experts.gate_proj"),
        "model.layers.{}.mlp.experts.{}.down_proj.weight": PerExpert("layers.{}.mlp.experts.down_proj"),
        "model.layers.{}.mlp.experts.{}.up_proj.weight": PerExpert("layers.{}.mlp.experts.up_proj"),
    },
    rotary=(),
)
QWEN3_MOE = Family(name="qwen3_moe", arch=_arch, hf=NAMES, parts=_parts)

_SHARED = {"vocab_size": 151_936, "num_kv_heads": 4, "head_dim": 128, "max_seq_len": 40_960}
_30B_A3B = {
    "num_layers": 48,
    "num_heads": 32,
    "embed_dim": 2048,
    "intermediate_dim": 6144,
    "moe_intermediate_dim": 768,
}
_235B_A22B = {
    "num_layers": 94,
    "num_heads": 64,
    "embed_dim": 4096,
    "intermediate_dim": 12_288,
    "moe_intermediate_dim": 1536,
}


def qwen3_moe(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    moe_intermediate_dim: int,
    max_seq_len: int,
    head_dim: int | None = None,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-6,
    rope_base: float = 1_000_000,
    num_experts: int = 128,
    experts_per_token: int = 8,
    norm_topk_prob: bool = True,
    decoder_sparse_step: int = 1,
    mlp_only_layers: Collection[int] = (),
    tie_word_embeddings: bool = False,
) -> TransformerDecoder:
    """A Qwen 3 decoder with experts, of any size.

    Args:
        intermediate_dim: of a feed-forward without experts; ``moe_intermediate_dim``: of each expert.
        max_seq_len: tokens.
        head_dim: channels of one head; None: ``embed_dim // num_heads``.
        attn_dropout: share of attention weights dropped in training.
        norm_topk_prob: the scores of a token's experts sum to 1.
        decoder_sparse_step: one layer of so many, the last of them, has experts, but for ``mlp_only_layers``.
        tie_word_embeddings: the output projection shares the token embedding's weight.
    """
    given = locals()
    own = ("moe_intermediate_dim", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers")
    parts = _parts_of(*(given.pop(name) for name in own))
    tied = given.pop("tie_word_embeddings")
    return build_decoder(Arch.with_rope(interleaved=False, qk_norm=True, tied=tied, **given), parts)


def qwen3_30b_a3b() -> TransformerDecoder:
    """Qwen 3 30B, of which a token sees 3B."""
    return qwen3_moe(**_SHARED, **_30B_A3B)


def qwen3_235b_a22b() -> TransformerDecoder:
    """Qwen 3 235B, of which a token sees 22B."""
    return qwen3_moe(**_SHARED, **_235B_A22B)


lora_qwen3_moe = with_lora(qwen3_moe)
lora_qwen3_30b_a3b = with_lora(qwen3_30b_a3b)
lora_qwen3_235b_a22b = with_lora(qwen3_235b_a22b)
qlora_qwen3_30b_a3b = partial(lora_qwen3_30b_a3b, quantize_base=True)
qlora_qwen3_235b_a22b = partial(lora_qwen3_235b_a22b, quantize_base=True)
