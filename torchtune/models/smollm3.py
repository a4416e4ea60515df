"""SmolLM 3 (https://huggingface.co/blog/smollm3), some of whose layers have no positions. Rows: ``config.json`` of
each checkpoint at https://huggingface.co/HuggingFaceTB.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._family import Family
from torchtune.models._hf_config import layer_types
from torchtune.models._hf_tokenizer import hf_tokenizer
from torchtune.models._rope import Rope, with_positions
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules import TransformerDecoder

__all__ = ["lora_smollm3", "lora_smollm3_3b", "qlora_smollm3_3b", "smollm3", "smollm3_3b", "smollm3_tokenizer"]


def _arch(config: Mapping[str, Any]) -> Arch:
    config.get("max_window_layers")  # left over from Qwen's config class; SmolLM 3 has no use for it
    interval = config.get("no_rope_layer_interval") or 4
    turning = config.get("no_rope_layers") or with_positions(config["num_hidden_layers"], interval)
    rope = Rope.from_hf(config, interleaved=False)
    return Arch.from_hf(
        config,
        ropes=tuple(rope if turns else None for turns in turning),
        windows=_windows(config, turning),
        biases=("attention_bias", "mlp_bias"),
    )


def _windows(config: Mapping[str, Any], turning: Sequence[bool]) -> tuple[int | None, ...]:
    """If any layer has a window, those without positions have it, unless the config gives the type of each layer."""
    window, used = config.get("sliding_window"), config.get("use_sliding_window")
    usual = ["sliding_attention" if used and not turns else "full_attention" for turns in turning]
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types(config, usual))


SMOLLM3 = Family(name="smollm3", arch=_arch, hf=WeightMap(HF_DECODER, rotary=()))

_3B = {
    "vocab_size": 128_256,
    "num_layers": 36,
    "num_heads": 16,
    "num_kv_heads": 4,
    "embed_dim": 2048,
    "intermediate_dim": 11_008,
    "max_seq_len": 65_536,
    "rope_base": 5_000_000,
}


def smollm3(
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    embed_dim: int,
    intermediate_dim: int,
    max_seq_len: int,
    attn_dropout: float = 0.0,
    norm_eps: float = 1e-6,
    rope_base: float = 2_000_000,
    no_rope_layer_interval: int = 4,
    tie_word_embeddings: bool = True,
) -> TransformerDecoder:
    """A SmolLM 3 decoder of any size, without a window.

    Args:
        max_seq_len: tokens.
        attn_dropout: share of attention weights dropped in training.
        no_rope_layer_interval: one layer of so many, the last of them, has no positions.
        tie_word_embeddings: the output projection shares the token embedding's weight.
    """
    given = locals()
    rope = Rope(base=given.pop("rope_base"), interleaved=False)
    turning = with_positions(num_layers, given.pop("no_rope_layer_interval"))
    ropes = tuple(rope if turns else None for turns in turning)
    return build_decoder(Arch(ropes=ropes, tied=given.pop("tie_word_embeddings"), **given))


def smollm3_3b() -> TransformerDecoder:
    """SmolLM 3 3B."""
    return smollm3(**_3B)


smollm3_tokenizer = hf_tokenizer
lora_smollm3 = with_lora(smollm3)
lora_smollm3_3b = with_lora(smollm3_3b)
qlora_smollm3_3b = partial(lora_smollm3_3b, quantize_base=True)
