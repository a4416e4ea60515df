"""Builders of models with adapters, made of those without: ``partial(lora, llama3_8b)``."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from inspect import signature
from typing import Any

from torchtune.modules import TransformerDecoder
from torchtune.modules.peft import LORA_ATTN_MODULES, apply_lora, get_lora_module_names


def lora(
    build: Callable[[], TransformerDecoder],
    lora_attn_modules: Collection[LORA_ATTN_MODULES],
    apply_lora_to_mlp: bool = False,
    apply_lora_to_output: bool = False,
    lora_rank: int = 8,
    lora_alpha: float = 16,
    lora_dropout: float = 0.0,
    use_dora: bool = False,
    quantize_base: bool = False,
    use_rslora: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    trainable_modules: Collection[str] = (),
) -> TransformerDecoder:
    """A model whose chosen linear layers have low-rank adapters, while its own weights are frozen.

    Args:
        build: makes the model without adapters.
        lora_attn_modules: projections of the attention that get an adapter.
        apply_lora_to_mlp: all projections of the feed-forward get one too; likewise the output projection.
        lora_alpha: the adapter's product is multiplied with ``lora_alpha / lora_rank``.
        use_dora: see :class:`torchtune.modules.peft.DoRALinear`.
        quantize_base: keep the layers' frozen weights in 4 bits (NF4).
        use_rslora: multiply with ``lora_alpha / sqrt(lora_rank)`` instead.
        rank_pattern: other ranks by the end of a layer's name (``w2``, ``layers.0.attn.q_proj``); likewise
            ``alpha_pattern``.
        trainable_modules: modules trained in full beside the adapters, by the end of their names: ``tok_embeddings``,
            ``sa_norm``, ``mlp_norm``, ``norm``, ``output``.

    Raises:
        ConfigError: a name that the model does not have, or a rank that a layer cannot have.
    """
    targets = get_lora_module_names(list(lora_attn_modules), apply_lora_to_mlp, apply_lora_to_output)
    return apply_lora(
        build(),
        targets,
        rank=lora_rank,
        alpha=lora_alpha,
        dropout=lora_dropout,
        use_dora=use_dora,
        use_rslora=use_rslora,
        quantize_base=quantize_base,
        rank_pattern=rank_pattern,
        alpha_pattern=alpha_pattern,
        trainable=trainable_modules,
    )


def lora_of_size(build: Callable[..., TransformerDecoder], given: Mapping[str, Any]) -> TransformerDecoder:
    """:func:`lora` of a builder that takes sizes, which stand among its own arguments in ``given``."""
    sizes = signature(build).parameters
    return lora(
        partial(build, **{name: given[name] for name in sizes if name in given}),
        **{name: value for name, value in given.items() if name not in sizes},
    )
