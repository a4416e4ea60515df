"""Builders of models with adapters, made of those without: ``lora_llama3_8b = with_lora(llama3_8b)``."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from inspect import Parameter, Signature, signature
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
        apply_lora_to_mlp: all projections of the feed-forward, or of its experts, get one too; likewise the output
            projection.
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


def with_lora(build: Callable[..., TransformerDecoder]) -> Callable[..., TransformerDecoder]:
    """A builder of the same model with adapters: the arguments of :func:`lora`, and by keyword those of ``build``."""

    def builder(*args: Any, **kwargs: Any) -> TransformerDecoder:
        given = builder.__signature__.bind(*args, **kwargs).arguments  # refuses what neither takes, as a function does
        own = {name: given.pop(name) for name in list(given) if name in sizes}
        return lora(partial(build, **own), **given)

    sizes = signature(build).parameters
    own = list(signature(lora).parameters.values())[1:]
    taken = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in sizes.values()]
    builder.__signature__ = Signature([*own, *taken], return_annotation=TransformerDecoder)
    builder.__name__ = builder.__qualname__ = f"lora_{build.__name__}"
    builder.__module__ = build.__module__
    builder.__doc__ = f"{build.__doc__.splitlines()[0].rstrip('.')}, with adapters; see ``_adapters.lora``."
    return builder
