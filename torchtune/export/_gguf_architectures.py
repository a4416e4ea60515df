"""Which architecture of llama.cpp each of our families is, and what its code takes for granted
(https://github.com/ggml-org/llama.cpp/tree/master/src/models).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import isclose
from typing import Any

from torchtune.errors import CheckpointError
from torchtune.models._decoder import Arch, Parts
from torchtune.models._hf_config import HFConfig
from torchtune.models._weights import WeightMap

Number = int | float | str


@dataclass(frozen=True)
class Model:
    """What a ``config.json`` says of a model."""

    config: HFConfig
    arch: Arch
    parts: Parts

    @property
    def final_cap(self) -> float | None:
        """The soft cap of the logits."""
        return self.parts.finish_logits and self.parts.finish_logits.cap

    @property
    def score_divisor(self) -> float:
        """Attention scores are divided by its root."""
        return self.arch.channels if self.arch.attn_scale is None else self.arch.attn_scale**-2

    def of_layers(self, values: tuple[Any, ...]) -> list[Any]:
        """One for each layer, of those that come by turns."""
        return [values[i % len(values)] for i in range(self.arch.num_layers)]


@dataclass(frozen=True)
class Need:
    """What a model must have, since the architecture's code knows nothing else and no key of a file says so."""

    text: str
    holds: Callable[[Model], Any]


@dataclass(frozen=True)
class Architecture:
    """A kind of decoder in llama.cpp.

    Args:
        name: there.
        tensors: names there -> ours; a tuple where several of ours are one there.
        interleaved: RoPE's pairs lie side by side; else half a head apart.
        norm_offset: how much more than ours the norms are there.
        period: all layers but each so-many-th have a window; None: windows are not kept, so the model serves sequences
            up to its window only.
        special_size: the number of layers of the size that divides attention scores by the root of dim / heads; all
            others divide by the root of a head's channels.
        rope_tensors: types of RoPE that there is a tensor for; others are keys.
        numbers: further keys of the file.
        in_transformers: transformers reads its files.
    """

    name: str
    tensors: Mapping[str, str | tuple[str, ...]]
    needs: tuple[Need, ...]
    interleaved: bool = False
    norm_offset: int = 0
    period: int | None = None
    special_size: int | None = None
    rope_tensors: tuple[str, ...] = ()
    numbers: Callable[[Model], Mapping[str, Number]] = lambda m: {}
    in_transformers: bool = True

    @cached_property
    def names(self) -> WeightMap:
        """The names, as of any other checkpoint."""
        return WeightMap(self.tensors, rotary=())

    def score_divisor(self, layers: int, dim: int, heads: int, channels: int) -> int:
        """What attention scores are divided by the root of there, unless the file says it."""
        return dim // heads if layers == self.special_size else channels

    def check(self, m: Model) -> None:
        """Refuse a model that llama.cpp would compute otherwise.

        Raises:
            CheckpointError: says what is not there.
        """
        a = m.arch
        divisor = self.score_divisor(a.num_layers, a.embed_dim, a.num_heads, a.channels)
        has_scale = "attention.scale" in self.numbers(m)
        scores = Need(f"attention scores divided by the root of {divisor}", lambda m: isclose(m.score_divisor, divisor))
        for need in (*self.needs, *([] if has_scale else [scores])):
            if not need.holds(m):
                raise CheckpointError(
                    f"llama.cpp's architecture {self.name} always has {need.text}, which this model has not; it would "
                    "give other answers there, so no GGUF file is written"
                )


def _layer(**names: str) -> dict[str, str]:
    return {f"blk.{{}}.{theirs}.weight": f"layers.{{}}.{ours}" for theirs, ours in names.items()}


def _biases(*modules: str) -> dict[str, str]:
    found = {f"blk.{{}}.{module}.weight": _MATRICES[f"blk.{{}}.{module}.weight"] for module in modules}
    return {theirs.replace("weight", "bias"): ours.replace("weight", "bias") for theirs, ours in found.items()}


_TIED = {"token_embd.weight": "tok_embeddings.weight", "output_norm.weight": "norm.scale"}
_ENDS = _TIED | {"output.weight": "output.weight"}
_ATTENTION = _layer(
    attn_q="attn.q_proj.weight",
    attn_k="attn.k_proj.weight",
    attn_v="attn.v_proj.weight",
    attn_output="attn.output_proj.weight",
)
_MATRICES = _ATTENTION | _layer(ffn_gate="mlp.w1.weight", ffn_down="mlp.w2.weight", ffn_up="mlp.w3.weight")
_EXPERTS = _ATTENTION | _layer(
    ffn_gate_inp="mlp.router.gate.weight",
    ffn_gate_exps="mlp.experts.gate_proj",
    ffn_down_exps="mlp.experts.down_proj",
    ffn_up_exps="mlp.experts.up_proj",
)
_FUSED = _layer(attn_output="attn.output_proj.weight", ffn_down="mlp.w2.weight") | {
    "blk.{}.attn_qkv.weight": tuple(f"layers.{{}}.attn.{name}_proj.weight" for name in "qkv"),
    "blk.{}.ffn_up.weight": ("layers.{}.mlp.w1.weight", "layers.{}.mlp.w3.weight"),
}
_PRE_NORMS = _layer(attn_norm="sa_norm.scale", ffn_norm="mlp_norm.scale")
_POST_NORMS = _layer(post_attention_norm="sa_scale.scale", post_ffw_norm="mlp_scale.scale")
_HEAD_NORMS = _layer(attn_q_norm="attn.q_norm.scale", attn_k_norm="attn.k_norm.scale")
_QKV_BIASES = _biases("attn_q", "attn_k", "attn_v")
_BIASES = _QKV_BIASES | _biases("attn_output", "ffn_gate", "ffn_down", "ffn_up")

_SILU = Need("the activation silu", lambda m: m.arch.activation in ("silu", "swish"))
_GELU = Need("the activation gelu_pytorch_tanh", lambda m: m.arch.activation == "gelu_pytorch_tanh")
_NO_CAPS = Need("logits and scores without a soft cap", lambda m: not (m.arch.attn_softcap or m.final_cap))
_CAPS = Need("soft caps of both logits and scores", lambda m: m.arch.attn_softcap and m.final_cap)
_ONE_ROPE = Need("the same positions in all layers", lambda m: all(rope == m.arch.ropes[0] for rope in m.arch.ropes))
_PLAIN_NEAR = Need("positions of windowed layers that are not scaled", lambda m: m.arch.ropes[0].scaling is None)
_WHOLE_HEADS = Need(
    "positions that turn whole heads", lambda m: all(rope.fraction == 1 for rope in filter(None, m.arch.ropes))
)
_EVEN_HEADS = Need("heads of dim / heads channels", lambda m: m.arch.channels * m.arch.num_heads == m.arch.embed_dim)
_UNTIED = Need("an output projection of its own", lambda m: not m.arch.tied)
_NORMED_CHOICE = Need("scores of experts that sum to 1", lambda m: m.config.get("norm_topk_prob"))
_NO_POSITIONS = Need(
    "positions in all layers but one of 4",
    lambda m: all((rope is None) == (i % 4 == 0) for i, rope in enumerate(m.of_layers(m.arch.ropes), 1)),
)
_DENSE = (_SILU, _NO_CAPS, _ONE_ROPE, _WHOLE_HEADS)
_GEMMA = (_GELU, _WHOLE_HEADS)


def _windows(period: int) -> Need:
    def holds(m: Model) -> bool:
        found = m.of_layers(m.arch.windows)
        return found == [found[0] if i % period else None for i in range(1, len(found) + 1)]

    return Need(f"one window in all layers but one of {period}", holds)


def _window(m: Model) -> dict[str, Number]:
    return {"attention.sliding_window": m.arch.windows[0]}


def _experts(m: Model) -> dict[str, Number]:
    return {"expert_count": m.arch.num_experts, "expert_used_count": m.arch.experts_per_token}


def _granite(m: Model) -> dict[str, Number]:
    factor = m.config.get
    return {
        "attention.scale": m.score_divisor**-0.5,
        "embedding_scale": float(factor("embedding_multiplier", 1.0)),
        "residual_scale": float(factor("residual_multiplier", 1.0)),
        "logit_scale": float(factor("logits_scaling", 1.0)),
    }


_LLAMA = Architecture(
    "llama", _ENDS | _MATRICES | _PRE_NORMS | _BIASES, _DENSE, interleaved=True, rope_tensors=("llama3",)
)
_GEMMA1 = Architecture(
    "gemma", _TIED | _MATRICES | _PRE_NORMS, (*_GEMMA, _NO_CAPS, _ONE_ROPE), norm_offset=1, in_transformers=False
)
_GEMMA2 = replace(
    _GEMMA1,
    name="gemma2",
    tensors=_GEMMA1.tensors | _POST_NORMS,
    needs=(*_GEMMA, _CAPS, _ONE_ROPE, _windows(2)),
    period=2,
    special_size=46,
    numbers=lambda m: (
        _window(m)
        | {"attn_logit_softcapping": float(m.arch.attn_softcap), "final_logit_softcapping": float(m.final_cap)}
    ),
    in_transformers=True,
)
_OLMO2 = Architecture(
    "olmo2",
    _ENDS | _MATRICES | _HEAD_NORMS | _POST_NORMS,
    (*_DENSE, _EVEN_HEADS, _UNTIED),
    in_transformers=False,
)
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "ministral": _LLAMA,
    "mixtral": replace(_LLAMA, tensors=_ENDS | _EXPERTS | _PRE_NORMS, numbers=_experts, in_transformers=False),
    "qwen2": Architecture("qwen2", _ENDS | _MATRICES | _PRE_NORMS | _QKV_BIASES, _DENSE),
    "qwen3": Architecture("qwen3", _ENDS | _MATRICES | _PRE_NORMS | _HEAD_NORMS, _DENSE),
    "qwen3_moe": Architecture(
        "qwen3moe",
        _ENDS | _EXPERTS | _PRE_NORMS | _HEAD_NORMS,
        (*_DENSE, _NORMED_CHOICE),
        numbers=lambda m: _experts(m) | {"expert_feed_forward_length": m.config["moe_intermediate_size"]},
    ),
    "gemma": _GEMMA1,
    "gemma2": _GEMMA2,
    "gemma3": replace(
        _GEMMA2,
        name="gemma3",
        tensors=_GEMMA2.tensors | _HEAD_NORMS,
        needs=(
            *_GEMMA,
            _NO_CAPS,
            _PLAIN_NEAR,
            Need("a RoPE base of 10,000 in windowed layers", lambda m: m.arch.ropes[0].base == 10_000),
            _windows(6),
        ),
        period=6,
        special_size=62,
        numbers=_window,
    ),
    "phi3": Architecture(
        "phi3",
        _ENDS | _FUSED | _PRE_NORMS,
        (_SILU, _NO_CAPS, _ONE_ROPE, _EVEN_HEADS),
        rope_tensors=("longrope",),
    ),
    "olmo2": _OLMO2,
    "olmo3": replace(
        _OLMO2,
        needs=(
            _SILU,
            _NO_CAPS,
            _WHOLE_HEADS,
            _EVEN_HEADS,
            _UNTIED,
            _PLAIN_NEAR,
            Need("one RoPE base in all layers", lambda m: len({rope.base for rope in m.arch.ropes}) == 1),
            _windows(4),
        ),
        period=4,
        numbers=_window,
    ),
    "granite": replace(_LLAMA, name="granite", numbers=_granite, in_transformers=False),
    "smollm3": Architecture(
        "smollm3",
        _ENDS | _MATRICES | _PRE_NORMS,
        (_SILU, _NO_CAPS, _WHOLE_HEADS, _NO_POSITIONS),
        interleaved=True,
        in_transformers=False,
    ),
}
"""By our names of families."""


def architecture_of(family: str) -> Architecture:
    """The architecture that a family is.

    Raises:
        CheckpointError: none is known.
    """
    if family not in ARCHITECTURES:
        raise CheckpointError(
            f"a GGUF file of a model of the family {family} cannot be written here yet; known families are "
            f"{', '.join(ARCHITECTURES)}. llama.cpp's own converter (convert_hf_to_gguf.py) may know it; it takes a "
            "Hugging Face folder, which --to hf writes"
        )
    return ARCHITECTURES[family]
