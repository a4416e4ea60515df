"""Llama 4 (https://ai.meta.com/blog/llama-4-multimodal-intelligence), the language model. Rows: ``config.json`` of each
checkpoint at https://huggingface.co/meta-llama.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, Parts, build_decoder, gated_mlp, grouped_query_attention
from torchtune.models._family import Family
from torchtune.models._hf_config import layer_types
from torchtune.models._hf_tokenizer import hf_tokenizer
from torchtune.models._moe import routing_from_hf, sparse_mlp
from torchtune.models._rope import Rope, llama3_scaling, with_positions
from torchtune.models._tensor_forms import Columns
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules import MultiHeadAttention, TransformerDecoder
from torchtune.modules.moe import MoE, sigmoid_of_chosen
from torchtune.modules.position_embeddings import Llama3ScaledRoPE

__all__ = [
    "Llama4ScaledRoPE", "llama4_decoder", "llama4_maverick_17b_128e_text", "llama4_scout_17b_16e_text",
    "llama4_tokenizer", "lora_llama4_decoder", "lora_llama4_maverick_17b_128e_text",
    "lora_llama4_scout_17b_16e_text", "qlora_llama4_maverick_17b_128e_text", "qlora_llama4_scout_17b_16e_text",
]  # fmt: skip

_CHUNKED, _FULL = "chunked_attention", "full_attention"
_TUNING = (0.1, 8192)


class Llama4ScaledRoPE(Llama3ScaledRoPE):
    """Llama 3.1's scaled RoPE with Llama 4's numbers: all but the fastest pairs turn 16 times slower."""

    def __init__(
        self,
        dim: int,
        max_seq_len: int = 10_485_760,
        base: float = 500_000,
        scale_factor: float = 16.0,
        low_freq_factor: float = 1.0,
        high_freq_factor: float = 1.0,
        old_context_len: int = 8192,
    ) -> None:
        super().__init__(dim, max_seq_len, base, scale_factor, low_freq_factor, high_freq_factor, old_context_len)


class ChunkedAttention(MultiHeadAttention):
    """Attention in which the window is the chunk, of positions from a multiple of ``window`` to the next, that a query
    stands in. Norms come after the positions.

    Args:
        tuning: strength and length: queries grow by ``strength * log(1 + n)`` from the n-th ``length`` tokens of a
            document on, so that they tell many keys apart (https://arxiv.org/abs/2501.19399); None: they do not.
    """

    def __init__(self, *, tuning: tuple[float, int] | None, **parts: Any) -> None:
        super().__init__(**parts)
        self.tuning = tuning

    def _queries(self, x: Tensor, input_pos: Tensor | None) -> Tensor:
        q = super()._queries(x, input_pos)
        if self.tuning is None:
            return q
        strength, length = self.tuning
        positions = torch.arange(x.shape[1], device=x.device) if input_pos is None else input_pos
        growth = 1 + strength * ((positions.float() + 1) / length).floor().log1p()
        return (q * growth.unsqueeze(-1).unsqueeze(-3)).to(q.dtype)

    def _placed(self, heads: Tensor, norm: nn.Module | None, input_pos: Tensor | None) -> Tensor:
        heads = super()._placed(heads, None, input_pos)
        return heads if norm is None else norm(heads)

    def _reach(self, positions: Tensor) -> Tensor:
        return positions.unsqueeze(-1) % self.window + 1


def _attention(
    a: Arch, layer: int, rope: nn.Module | None, parts: Parts, *, tuning: tuple[float, int] | None
) -> ChunkedAttention:
    """Layers with positions have norms, those without are tuned."""
    return grouped_query_attention(
        replace(a, qk_norm=a.qk_norm and rope is not None),
        layer,
        rope,
        replace(parts, norm=partial(nn.RMSNorm, elementwise_affine=False)),
        attention=partial(ChunkedAttention, tuning=tuning if rope is None else None),
    )


def _parts_of(
    sparse_layers: Collection[int],
    mlp_hidden_dim: int | None,
    tuning: tuple[float, int] | None,
    use_shared_expert: bool = True,
) -> Parts:
    def mlp(a: Arch, layer: int) -> nn.Module:
        if layer not in sparse_layers:
            return gated_mlp(replace(a, intermediate_dim=mlp_hidden_dim), layer)
        shared = gated_mlp(a, layer) if use_shared_expert else None
        return sparse_mlp(a, layer, choose=sigmoid_of_chosen, kind=MoE, shared_expert=shared)

    return Parts(mlp=mlp, attention=partial(_attention, tuning=tuning))


def _every(num_layers: int, step: int) -> range:
    """One layer of ``step``, the last of them."""
    return range(step - 1, num_layers, step)


def _arch(config: Mapping[str, Any]) -> Arch:
    interval = config.get("no_rope_layer_interval")
    turning = config.get("no_rope_layers") or with_positions(config["num_hidden_layers"], interval)
    kinds = layer_types(config, [_CHUNKED if turns else _FULL for turns in turning])
    rope, chunk = Rope.from_hf(config), config.get("attention_chunk_size")
    return Arch.from_hf(
        config,
        ropes=tuple(rope if turns else None for turns in turning),
        windows=tuple(chunk if kind == _CHUNKED else None for kind in kinds),
        qk_norm=bool(config.get("use_qk_norm")),
        biases=("attention_bias",),
        **routing_from_hf(config),
    )


def _parts(config: Mapping[str, Any]) -> Parts:
    step, sparse = config["interleave_moe_layer_step"], config.get("moe_layers")
    tuning = config["attn_scale"], config["floor_scale"]
    return _parts_of(
        _every(config["num_hidden_layers"], step) if sparse is None else sparse,
        config["intermediate_size_mlp"],
        tuning if config.get("attn_temperature_tuning") else None,
    )


_EXPERTS = "layers.{}.mlp.experts"
NAMES = WeightMap(
    {theirs.replace(".mlp.", ".feed_forward."): ours for theirs, ours in HF_DECODER.items()}
    | {
        "model.layers.{}.feed_forward.router": "layers.{}.mlp.router.gate",
        "model.layers.{}.feed_forward.shared_expert.gate_proj": "layers.{}.mlp.shared_expert.w1",
        "model.layers.{}.feed_forward.shared_expert.down_proj": "layers.{}.mlp.shared_expert.w2",
        "model.layers.{}.feed_forward.shared_expert.up_proj": "layers.{}.mlp.shared_expert.w3",
        "model.layers.{}.feed_forward.experts.gate_up_proj": Columns((f"{_EXPERTS}.gate_proj", f"{_EXPERTS}.up_proj")),
        "model.layers.{}.feed_forward.experts.down_proj": f"{_EXPERTS}.down_proj",
    },
    rotary=(),  # the files have Meta's order of channels
)
LLAMA4 = Family(name="llama4", arch=_arch, hf=NAMES, parts=_parts)

_17B = {
    "vocab_size": 202_048,
    "num_layers": 48,
    "num_heads": 40,
    "num_kv_heads": 8,
    "embed_dim": 5120,
    "hidden_dim": 8192,
    "mlp_hidden_dim": 16_384,
    "skip_rope_interval": 4,
    "attention_chunk_size": 8192,
}
_SCOUT = _17B | {"num_experts": 16, "use_scaled_rope": True}
_MAVERICK = _17B | {"num_experts": 128, "moe_every_n_layers": 2, "use_qk_norm": False}


def llama4_decoder(
    *,
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    hidden_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    rope_base: float = 500_000,
    norm_eps: float = 1e-5,
    num_experts: int = 16,
    experts_per_token: int = 1,
    use_shared_expert: bool = True,
    use_qk_norm: bool = True,
    moe_every_n_layers: int | None = None,
    mlp_hidden_dim: int | None = None,
    skip_rope_interval: int | None = None,
    attention_chunk_size: int | None = None,
    use_scaled_rope: bool = False,
    rope_scale_factor: float = 16.0,
    rope_low_freq_factor: float = 1.0,
    rope_high_freq_factor: float = 1.0,
    old_context_len: int = 8192,
    attn_temperature_tuning: tuple[float, int] | None = _TUNING,
) -> TransformerDecoder:
    """A Llama 4 decoder of any size.

    Args:
        hidden_dim: of each expert, that which all tokens see included.
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
        use_qk_norm: heads are normalised in layers with positions.
        moe_every_n_layers: one layer of so many, the last of them, has experts; None: all.
        mlp_hidden_dim: of the other layers.
        skip_rope_interval: one layer of so many, the last of them, has no positions; None: all have.
        attention_chunk_size: tokens of a chunk, beyond which layers with positions do not look; None: all tokens.
        rope_scale_factor: of the slow pairs if ``use_scaled_rope``; see
            :class:`torchtune.modules.position_embeddings.Llama3ScaledRoPE` for this and the next.
        attn_temperature_tuning: of layers without positions; see :class:`ChunkedAttention`.
    """
    factors = {"low_freq_factor": rope_low_freq_factor, "high_freq_factor": rope_high_freq_factor}
    scaling = llama3_scaling(rope_scale_factor, old_context_len) | factors if use_scaled_rope else None
    turning = with_positions(num_layers, skip_rope_interval) if skip_rope_interval else [True]
    rope = Rope(base=rope_base, scaling=scaling)
    arch = Arch(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        embed_dim=embed_dim,
        intermediate_dim=hidden_dim,
        max_seq_len=max_seq_len,
        attn_dropout=attn_dropout,
        norm_eps=norm_eps,
        ropes=tuple(rope if turns else None for turns in turning),
        windows=tuple(attention_chunk_size if turns else None for turns in turning),
        qk_norm=use_qk_norm,
        num_experts=num_experts,
        experts_per_token=experts_per_token,
    )
    sparse = _every(num_layers, moe_every_n_layers or 1)
    return build_decoder(arch, _parts_of(sparse, mlp_hidden_dim, attn_temperature_tuning, use_shared_expert))


def llama4_scout_17b_16e_text(
    max_seq_len: int = 10_485_760, rope_scale_factor: float = 16.0, rope_high_freq_factor: float = 1.0
) -> TransformerDecoder:
    """Llama 4 Scout Instruct, without what reads images; the base has 262,144 tokens, and factors of 8 and 4."""
    return llama4_decoder(**_SCOUT, **locals())


def llama4_maverick_17b_128e_text(max_seq_len: int = 1_048_576) -> TransformerDecoder:
    """Llama 4 Maverick Instruct, without what reads images; the base has 262,144 tokens."""
    return llama4_decoder(**_MAVERICK, max_seq_len=max_seq_len)


llama4_tokenizer = hf_tokenizer
lora_llama4_decoder = with_lora(llama4_decoder)
lora_llama4_scout_17b_16e_text = with_lora(llama4_scout_17b_16e_text)
lora_llama4_maverick_17b_128e_text = with_lora(llama4_maverick_17b_128e_text)
qlora_llama4_scout_17b_16e_text = partial(lora_llama4_scout_17b_16e_text, quantize_base=True)
qlora_llama4_maverick_17b_128e_text = partial(lora_llama4_maverick_17b_128e_text, quantize_base=True)
