"""The one decoder: numbers (:class:`Arch`) and constructors (:class:`Parts`) in, ``TransformerDecoder`` out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from torchtune.errors import CheckpointError
from torchtune.modules import (
    FeedForward,
    MultiHeadAttention,
    RMSNorm,
    RotaryPositionalEmbeddings,
    TiedLinear,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
)
from torchtune.modules.position_embeddings import Llama3ScaledRoPE


@dataclass(frozen=True, kw_only=True)
class Arch:
    """The size and shape of a decoder. Only numbers that two families share belong here; an oddity of one is a Part."""

    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    embed_dim: int
    max_seq_len: int  # tokens
    head_dim: int | None = None  # None: embed_dim // num_heads
    intermediate_dim: int | None = None  # None: see ``llama_intermediate_dim``
    attn_dropout: float = 0.0
    norm_eps: float = 1e-5
    rope_base: float = 10_000.0
    rope_scale_factor: float | None = None  # None: no scaling, else Llama 3.1's
    rope_old_context_len: int = 8192  # tokens; read only with a scale factor
    tied: bool = False  # the output projection reads the token embedding
    num_classes: int | None = None  # None: a language model; else the rows of a classifier's output

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], **overrides: Any) -> "Arch":
        """Read the fields that Hugging Face decoder ``config.json`` files spell the same way.

        Raises:
            CheckpointError: a field is missing, or RoPE is scaled in a way that this decoder does not have.
        """
        try:
            fields = {
                "vocab_size": config["vocab_size"],
                "num_layers": config["num_hidden_layers"],
                "num_heads": config["num_attention_heads"],
                "num_kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
                "head_dim": config.get("head_dim"),
                "embed_dim": config["hidden_size"],
                "intermediate_dim": config["intermediate_size"],
                "max_seq_len": config["max_position_embeddings"],
                "norm_eps": config.get("rms_norm_eps", 1e-6),
                "tied": config.get("tie_word_embeddings", False),
            }
        except KeyError as e:
            raise CheckpointError(
                f"config.json lacks {e.args[0]!r}, which every decoder's has; is it complete?"
            ) from None
        return cls(**fields | _hf_rope(config) | overrides)


def _hf_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE in the spelling of transformers 5 (``rope_parameters``) or of earlier versions (``rope_scaling``)."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = {"rope_base": rope.get("rope_theta") or config.get("rope_theta") or 10_000.0}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return base
    if kind != "llama3" or (rope["low_freq_factor"], rope["high_freq_factor"]) != (1, 4):
        raise CheckpointError(
            f"config.json asks for RoPE scaling {dict(rope)}; "
            "known are 'default', and 'llama3' with the factors 1 and 4 of Llama 3.1"
        )
    return base | {
        "rope_scale_factor": rope["factor"],
        "rope_old_context_len": rope["original_max_position_embeddings"],
    }


def llama_intermediate_dim(embed_dim: int, multiple_of: int = 256) -> int:
    """Feed-forward width: two thirds of ``4 * embed_dim``, rounded up (https://arxiv.org/abs/2302.13971, 2.2)."""
    width = int(4 * embed_dim * 2 / 3)
    return -(-width // multiple_of) * multiple_of


def rotary(a: Arch) -> RotaryPositionalEmbeddings:
    """Rotary positions; one module serves all layers, so there is one angle cache."""
    dim = a.head_dim or a.embed_dim // a.num_heads
    if a.rope_scale_factor is None:
        return RotaryPositionalEmbeddings(dim, a.max_seq_len, a.rope_base)
    scaling = {"scale_factor": a.rope_scale_factor, "old_context_len": a.rope_old_context_len}
    return Llama3ScaledRoPE(dim, a.max_seq_len, a.rope_base, **scaling)


def gated_mlp(a: Arch) -> FeedForward:
    """SwiGLU (https://arxiv.org/abs/2002.05202)."""
    width = a.intermediate_dim or llama_intermediate_dim(a.embed_dim)
    up = partial(nn.Linear, a.embed_dim, width, bias=False)
    return FeedForward(gate_proj=up(), up_proj=up(), down_proj=nn.Linear(width, a.embed_dim, bias=False))


def grouped_query_attention(a: Arch, rope: nn.Module) -> MultiHeadAttention:
    """Attention without biases."""
    head_dim = a.head_dim or a.embed_dim // a.num_heads
    q_dim, kv_dim = a.num_heads * head_dim, a.num_kv_heads * head_dim
    return MultiHeadAttention(
        embed_dim=a.embed_dim,
        num_heads=a.num_heads,
        num_kv_heads=a.num_kv_heads,
        head_dim=head_dim,
        q_proj=nn.Linear(a.embed_dim, q_dim, bias=False),
        k_proj=nn.Linear(a.embed_dim, kv_dim, bias=False),
        v_proj=nn.Linear(a.embed_dim, kv_dim, bias=False),
        output_proj=nn.Linear(q_dim, a.embed_dim, bias=False),
        pos_embeddings=rope,
        max_seq_len=a.max_seq_len,
        attn_dropout=a.attn_dropout,
    )


def pre_norm_layer(a: Arch, rope: nn.Module, parts: "Parts") -> TransformerSelfAttentionLayer:
    """Norm before attention and norm before the feed-forward."""
    return TransformerSelfAttentionLayer(
        parts.attention(a, rope),
        parts.mlp(a),
        sa_norm=parts.norm(a.embed_dim, a.norm_eps),
        mlp_norm=parts.norm(a.embed_dim, a.norm_eps),
    )


def output_projection(a: Arch, embedding: nn.Embedding) -> Callable[[Tensor], Tensor]:
    """The projection to the vocabulary, or to the classes of a classifier."""
    if a.tied and a.num_classes is None:
        return TiedLinear(embedding)
    return nn.Linear(a.embed_dim, a.num_classes or a.vocab_size, bias=False)


@dataclass(frozen=True)
class Parts:
    """The constructors that a family may replace."""

    norm: Callable[[int, float], nn.Module] = RMSNorm
    mlp: Callable[[Arch], nn.Module] = gated_mlp
    attention: Callable[[Arch, nn.Module], nn.Module] = grouped_query_attention
    layer: Callable[[Arch, nn.Module, "Parts"], nn.Module] = pre_norm_layer


def build_decoder(a: Arch, parts: Parts = Parts()) -> TransformerDecoder:
    """The model, with torch's default initialisation; make it under ``torch.device("meta")`` to give it no storage."""
    embedding = nn.Embedding(a.vocab_size, a.embed_dim)
    rope = rotary(a)
    return TransformerDecoder(
        tok_embeddings=embedding,
        layers=[parts.layer(a, rope, parts) for _ in range(a.num_layers)],
        max_seq_len=a.max_seq_len,
        num_heads=a.num_heads,
        head_dim=a.head_dim or a.embed_dim // a.num_heads,
        norm=parts.norm(a.embed_dim, a.norm_eps),
        output=output_projection(a, embedding),
    )
