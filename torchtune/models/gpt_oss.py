"""gpt-oss (https://arxiv.org/abs/2508.10925). Rows: ``config.json`` of each checkpoint at https://huggingface.co/openai."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, Parts, build_decoder, grouped_query_attention
from torchtune.models._family import Family
from torchtune.models._hf_config import layer_types
from torchtune.models._hf_tokenizer import hf_tokenizer
from torchtune.models._moe import routing_from_hf, top_k_router
from torchtune.models._rope import Rope
from torchtune.models._tensor_forms import Columns
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules import MultiHeadAttention, TransformerDecoder
from torchtune.modules.moe import GroupedExperts, WeightedSumMoE, softmax_over_chosen
from torchtune.modules.moe.utils import grouped_product

__all__ = [
    "gpt_oss", "gpt_oss_20b", "gpt_oss_120b", "gpt_oss_tokenizer", "lora_gpt_oss", "lora_gpt_oss_20b",
    "lora_gpt_oss_120b", "qlora_gpt_oss_20b", "qlora_gpt_oss_120b",
]  # fmt: skip

_KINDS = ("sliding_attention", "full_attention")


class ClampedExperts(GroupedExperts):
    """Experts with biases, whose gate is ``g * sigmoid(alpha * g)`` and multiplies the other product plus one.

    Args:
        alpha: steepness of the gate.
        limit: the largest value of the gate's input, and the largest magnitude of the other product.
    """

    def __init__(self, *, dim: int, hidden_dim: int, num_experts: int, alpha: float, limit: float) -> None:
        super().__init__(dim=dim, hidden_dim=hidden_dim, num_experts=num_experts)
        self.steepness, self.limit = alpha, limit
        self.gate_proj_bias = nn.Parameter(torch.zeros(num_experts, hidden_dim))
        self.up_proj_bias = nn.Parameter(torch.zeros(num_experts, hidden_dim))
        self.down_proj_bias = nn.Parameter(torch.zeros(num_experts, dim))

    def project(self, x: Tensor, stack: str, num_tokens_per_expert: Tensor) -> Tensor:
        # A product with ones sums the bias's gradient over an expert's rows in the same order every time.
        bias = getattr(self, f"{stack}_bias").unsqueeze(1)
        y = super().project(x, stack, num_tokens_per_expert)
        return y + grouped_product(x.new_ones(len(x), 1), bias, num_tokens_per_expert)

    def hidden(self, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        return (up + 1) * (gate * torch.sigmoid(self.steepness * gate))


def _attention(a: Arch, layer: int, rope: nn.Module | None, parts: Parts) -> MultiHeadAttention:
    sinks = nn.Parameter(torch.zeros(a.num_heads))
    return grouped_query_attention(a, layer, rope, parts, attention=partial(MultiHeadAttention, sinks=sinks))


def _mlp(a: Arch, layer: int, *, alpha: float, limit: float) -> WeightedSumMoE:
    sizes = {"dim": a.embed_dim, "hidden_dim": a.intermediate_dim, "num_experts": a.num_experts}
    router = top_k_router(a, softmax_over_chosen, bias=True)
    return WeightedSumMoE(experts=ClampedExperts(**sizes, alpha=alpha, limit=limit), router=router)


def _parts_of(alpha: float, limit: float) -> Parts:
    return Parts(attention=_attention, mlp=partial(_mlp, alpha=alpha, limit=limit))


def _arch(config: Mapping[str, Any]) -> Arch:
    for repeated in ("experts_per_token", "initial_context_length"):  # in the releases, beside the keys that are read
        config.get(repeated)
    window = config.get("sliding_window")
    return Arch.from_hf(
        config,
        interleaved=False,
        windows=tuple(window if kind == _KINDS[0] else None for kind in layer_types(config, _KINDS)),
        biases=("attention_bias",),
        **routing_from_hf(config),
    )


NAMES = WeightMap(
    HF_DECODER
    | {
        "model.layers.{}.self_attn.sinks": "layers.{}.attn.sinks",
        "model.layers.{}.mlp.router": "layers.{}.mlp.router.gate",
        "model.layers.{}.mlp.experts.down_proj": "layers.{}.mlp.experts.down_proj",
        "model.layers.{}.mlp.experts.down_proj_bias": "layers.{}.mlp.experts.down_proj_bias",
    }
    | {
        f"model.layers.{{}}.mlp.experts.gate_up_proj{leaf}": Columns(
            (f"layers.{{}}.mlp.experts.gate_proj{leaf}", f"layers.{{}}.mlp.experts.up_proj{leaf}"), interleaved=True
        )
        for leaf in ("", "_bias")
    },
    rotary=(),
)
GPT_OSS = Family(
    name="gpt_oss",
    arch=_arch,
    hf=NAMES,
    parts=lambda config: _parts_of(config["swiglu_alpha"], config["swiglu_limit"]),
)

_SHARED = {
    "vocab_size": 201_088,
    "num_heads": 64,
    "num_kv_heads": 8,
    "embed_dim": 2880,
    "intermediate_dim": 2880,
    "max_seq_len": 131_072,
}
_20B = _SHARED | {"num_layers": 24, "num_experts": 32}
_120B = _SHARED | {"num_layers": 36, "num_experts": 128}


def gpt_oss(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    head_dim: int = 64,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-5,
    rope_base: float = 150_000,
    rope_scale_factor: float = 32.0,
    old_context_len: int = 4096,
    sliding_window_size: int = 128,
    num_experts: int = 32,
    experts_per_token: int = 4,
    swiglu_alpha: float = 1.702,
    swiglu_limit: float = 7.0,
) -> TransformerDecoder:
    """A gpt-oss decoder of any size.

    Args:
        intermediate_dim: of each expert.
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
        rope_scale_factor: how many times the context of ``old_context_len`` tokens is extended.
        sliding_window_size: tokens that every second layer looks back, from the first on; itself included.
        swiglu_alpha: see :class:`ClampedExperts` for this and the next.
    """
    scaling = {
        "rope_type": "yarn",
        "factor": rope_scale_factor,
        "original_max_position_embeddings": old_context_len,
        "truncate": False,
    }
    arch = Arch(
        vocab_size=vocab_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        embed_dim=embed_dim,
        intermediate_dim=intermediate_dim,
        max_seq_len=max_seq_len,
        head_dim=head_dim,
        attn_dropout=attn_dropout,
        norm_eps=norm_eps,
        ropes=(Rope(base=rope_base, interleaved=False, scaling=scaling),),
        windows=(sliding_window_size, None),
        qkv_bias=True,
        output_proj_bias=True,
        num_experts=num_experts,
        experts_per_token=experts_per_token,
    )
    return build_decoder(arch, _parts_of(swiglu_alpha, swiglu_limit))


def gpt_oss_20b() -> TransformerDecoder:
    """gpt-oss 20B, of which a token sees 3.6B."""
    return gpt_oss(**_20B)


def gpt_oss_120b() -> TransformerDecoder:
    """gpt-oss 120B, of which a token sees 5.1B."""
    return gpt_oss(**_120B)


gpt_oss_tokenizer = hf_tokenizer
lora_gpt_oss = with_lora(gpt_oss)
lora_gpt_oss_20b = with_lora(gpt_oss_20b)
lora_gpt_oss_120b = with_lora(gpt_oss_120b)
qlora_gpt_oss_20b = partial(lora_gpt_oss_20b, quantize_base=True)
qlora_gpt_oss_120b = partial(lora_gpt_oss_120b, quantize_base=True)
