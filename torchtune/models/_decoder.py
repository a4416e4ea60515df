"""The one decoder: numbers (:class:`Arch`) and constructors (:class:`Parts`) in, ``TransformerDecoder`` out."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from torchtune.errors import CheckpointError
from torchtune.models._rope import Rope
from torchtune.modules import (
    FeedForward,
    MultiHeadAttention,
    RMSNorm,
    TiedLinear,
    TransformerDecoder,
    TransformerSelfAttentionLayer,
)

# By the name that a config.json has for it.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_pytorch_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
}


@dataclass(frozen=True, kw_only=True)
class Arch:
    """The size and shape of a decoder. Only numbers that two families share belong here; an oddity of one is a Part.

    What differs between layers is a tuple; layer i has entry ``i % len``.
    """

    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    embed_dim: int
    max_seq_len: int  # tokens
    head_dim: int | None = None  # None: embed_dim // num_heads
    intermediate_dim: int | None = None  # None: see ``llama_intermediate_dim``
    activation: str = "silu"  # a key of ``ACTIVATIONS``
    attn_dropout: float = 0.0
    norm_eps: float = 1e-5
    ropes: tuple[Rope | None, ...] = (Rope(),)  # None: a layer without positions
    windows: tuple[int | None, ...] = (None,)  # keys that a query sees, itself included; None: all
    qkv_bias: bool = False
    output_proj_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # each head of queries and keys is normalised before the positions
    attn_scale: float | None = None  # multiplies the scores; None: head_dim ** -0.5
    attn_softcap: float | None = None
    num_experts: int = 0
    experts_per_token: int = 0
    tied: bool = False  # the output projection reads the token embedding
    num_classes: int | None = None  # None: a language model; else the rows of a classifier's output

    @classmethod
    def from_hf(
        cls, config: Mapping[str, Any], *, interleaved: bool = True, biases: Collection[str] = (), **overrides: Any
    ) -> "Arch":
        """Read the fields that Hugging Face decoder ``config.json`` files spell the same way.

        Args:
            interleaved: see :class:`Rope`.
            biases: which of the switches ``attention_bias`` and ``mlp_bias`` this family has.

        Raises:
            KeyError: a field is missing.
            CheckpointError: one asks for what this decoder does not have.
        """
        has = {key: config.get(key, False) for key in biases}
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
            "activation": _activation(config),
            "attn_dropout": config.get("attention_dropout") or 0.0,
            "qkv_bias": has.get("attention_bias", False),
            "output_proj_bias": has.get("attention_bias", False),
            "mlp_bias": has.get("mlp_bias", False),
            "tied": config.get("tie_word_embeddings", False),
        }
        ropes = overrides.pop("ropes", None) or (Rope.from_hf(config, interleaved=interleaved),)
        return cls(**fields | {"ropes": ropes} | overrides)

    @classmethod
    def with_rope(
        cls,
        *,
        rope_base: float = 10_000.0,
        interleaved: bool = True,
        scaling: Mapping[str, Any] | None = None,
        **numbers: Any,
    ) -> "Arch":
        """Numbers of a decoder whose layers have the same positions; for the first arguments see :class:`Rope`."""
        return cls(ropes=(Rope(base=rope_base, interleaved=interleaved, scaling=scaling),), **numbers)

    @property
    def channels(self) -> int:
        """Channels of one head."""
        return self.head_dim or self.embed_dim // self.num_heads


def _activation(config: Mapping[str, Any]) -> str:
    newer, older = config.get("hidden_activation"), config.get("hidden_act")  # Gemma 2 has both
    found = newer or older or "silu"
    if found not in ACTIVATIONS:
        raise CheckpointError(f"config.json asks for the activation {found!r}; known are {', '.join(ACTIVATIONS)}")
    return found


def llama_intermediate_dim(embed_dim: int, multiple_of: int = 256) -> int:
    """Feed-forward width: two thirds of ``4 * embed_dim``, rounded up (https://arxiv.org/abs/2302.13971, 2.2)."""
    width = int(4 * embed_dim * 2 / 3)
    return -(-width // multiple_of) * multiple_of


def gated_mlp(a: Arch, layer: int) -> FeedForward:
    """A gated feed-forward; with SiLU it is SwiGLU (https://arxiv.org/abs/2002.05202)."""
    width = a.intermediate_dim or llama_intermediate_dim(a.embed_dim)
    up = partial(nn.Linear, a.embed_dim, width, bias=a.mlp_bias)
    down = nn.Linear(width, a.embed_dim, bias=a.mlp_bias)
    return FeedForward(gate_proj=up(), up_proj=up(), down_proj=down, activation=ACTIVATIONS[a.activation]())


def grouped_query_attention(
    a: Arch,
    layer: int,
    rope: nn.Module | None,
    parts: "Parts",
    *,
    attention: Callable[..., MultiHeadAttention] = MultiHeadAttention,
) -> MultiHeadAttention:
    """Attention as the numbers describe it; ``attention`` is the class that is made."""
    q_dim, kv_dim = a.num_heads * a.channels, a.num_kv_heads * a.channels
    return attention(
        embed_dim=a.embed_dim,
        num_heads=a.num_heads,
        num_kv_heads=a.num_kv_heads,
        head_dim=a.channels,
        q_proj=nn.Linear(a.embed_dim, q_dim, bias=a.qkv_bias),
        k_proj=nn.Linear(a.embed_dim, kv_dim, bias=a.qkv_bias),
        v_proj=nn.Linear(a.embed_dim, kv_dim, bias=a.qkv_bias),
        output_proj=nn.Linear(q_dim, a.embed_dim, bias=a.output_proj_bias),
        q_norm=parts.norm(a.channels, a.norm_eps) if a.qk_norm else None,
        k_norm=parts.norm(a.channels, a.norm_eps) if a.qk_norm else None,
        pos_embeddings=rope,
        max_seq_len=a.max_seq_len,
        attn_dropout=a.attn_dropout,
        window=a.windows[layer % len(a.windows)],
        softcap=a.attn_softcap,
        scale=a.attn_scale,
    )


def pre_norm_layer(a: Arch, attn: nn.Module, mlp: nn.Module, parts: "Parts") -> TransformerSelfAttentionLayer:
    """Norm before attention and norm before the feed-forward."""
    norm = partial(parts.norm, a.embed_dim, a.norm_eps)
    return TransformerSelfAttentionLayer(attn, mlp, sa_norm=norm(), mlp_norm=norm())


def sandwich_layer(a: Arch, attn: nn.Module, mlp: nn.Module, parts: "Parts") -> TransformerSelfAttentionLayer:
    """Norms before and after attention, and before and after the feed-forward."""
    norm = partial(parts.norm, a.embed_dim, a.norm_eps)
    return TransformerSelfAttentionLayer(attn, mlp, sa_norm=norm(), sa_scale=norm(), mlp_norm=norm(), mlp_scale=norm())


def token_embedding(a: Arch) -> nn.Embedding:
    """A plain embedding."""
    return nn.Embedding(a.vocab_size, a.embed_dim)


def output_projection(a: Arch, embedding: nn.Embedding) -> Callable[[Tensor], Tensor]:
    """The projection to the vocabulary, or to the classes of a classifier."""
    if a.tied and a.num_classes is None:
        return TiedLinear(embedding)
    return nn.Linear(a.embed_dim, a.num_classes or a.vocab_size, bias=False)


@dataclass(frozen=True)
class Parts:
    """The constructors that a family may replace; ``layer`` in their arguments is the layer's number.

    Args:
        final_norm: the norm after the last layer; None: as the others.
        finish_logits: applied to what the output projection to the vocabulary gives, for example a soft cap.
    """

    norm: Callable[[int, float], nn.Module] = RMSNorm
    embedding: Callable[[Arch], nn.Embedding] = token_embedding
    mlp: Callable[[Arch, int], nn.Module] = gated_mlp
    attention: Callable[[Arch, int, nn.Module | None, "Parts"], nn.Module] = grouped_query_attention
    layer: Callable[[Arch, nn.Module, nn.Module, "Parts"], nn.Module] = pre_norm_layer
    final_norm: Callable[[int, float], nn.Module] | None = None
    finish_logits: Callable[[Tensor], Tensor] | None = None


def build_decoder(a: Arch, parts: Parts = Parts()) -> TransformerDecoder:
    """The model, with torch's default initialisation; make it under ``torch.device("meta")`` to give it no storage."""
    embedding = parts.embedding(a)
    ropes = _rope_modules(a)
    layers = []
    for i in range(a.num_layers):
        attention = parts.attention(a, i, ropes[i % len(ropes)], parts)
        layers.append(parts.layer(a, attention, parts.mlp(a, i), parts))
    return TransformerDecoder(
        tok_embeddings=embedding,
        layers=layers,
        max_seq_len=a.max_seq_len,
        num_heads=a.num_heads,
        head_dim=a.channels,
        norm=(parts.final_norm or parts.norm)(a.embed_dim, a.norm_eps),
        output=output_projection(a, embedding),
        finish_logits=parts.finish_logits if a.num_classes is None else None,
    )


def _rope_modules(a: Arch) -> list[nn.Module | None]:
    """The module of each of ``a.ropes``; those that are alike share one, and so one cache of angles."""
    made: list[nn.Module | None] = []
    for i, rope in enumerate(a.ropes):
        first = a.ropes.index(rope)
        made.append(made[first] if first < i else rope and rope.module(a.channels, a.max_seq_len))
    return made
