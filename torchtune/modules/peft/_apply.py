"""Adapters as a change to a finished model: which projections get one, of what rank, and what else is trained."""

import difflib
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchtune.errors import ConfigError
from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.modules.moe import GroupedExperts, LoRAGroupedExperts
from torchtune.modules.peft.dora import DoRALinear
from torchtune.modules.peft.lora import LoRALinear
from torchtune.modules.tied_linear import TiedLinear
from torchtune.utils import log_rank_zero

logger = logging.getLogger(__name__)

AdaptedLayer = LoRALinear | LoRAGroupedExperts

_MLP = {"w1", "w2", "w3"}


def apply_lora(
    model: nn.Module,
    targets: Collection[str],
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    use_dora: bool = False,
    use_rslora: bool = False,
    quantize_base: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    trainable: Collection[str] = (),
) -> nn.Module:
    """Give linear layers adapters and freeze everything else, in place; gives the model.

    A layer or module is meant by the end of its name: ``q_proj`` is that of every layer, ``layers.0.attn.q_proj`` one.
    The experts of a layer are one target, ``experts``; ``w1``, ``w2`` and ``w3`` together mean them too.

    Args:
        targets: linear layers and experts that get an adapter.
        rank: rows of A, unless ``rank_pattern`` has another number for a layer; likewise ``alpha``.
        dropout: see :class:`LoRALinear`, like ``use_rslora``; ``use_dora`` takes :class:`DoRALinear`.
        quantize_base: keep the weights of all linear layers and experts in 4 bits, but for the output projection and
            ``trainable``.
        trainable: modules that are trained in full, as they are: embeddings, norms, the output projection.

    Raises:
        ConfigError: a name that is in no module, a rank below 1, or nothing that would be trained.
    """
    _check_sense(model, targets, trainable)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | GroupedExperts)}
    chosen = {n for t in _with_experts(targets, layers) for n in _named(t, layers, "linear layer")}
    ranks, alphas = _values(rank, rank_pattern, chosen), _values(alpha, alpha_pattern, chosen)
    trained = {n for t in trainable for n in _trainable_names(t, model, chosen)}
    model.requires_grad_(False)
    for name, layer in layers.items():
        quantised = quantize_base and name != "output" and name not in trained
        if quantised:
            _check_quantisable(name, layer)
        if name in chosen:
            if ranks[name] < 1:
                raise ConfigError(f"lora_rank {ranks[name]} of {name} is below 1")
            values = {"rank": ranks[name], "alpha": alphas[name], "dropout": dropout, "use_rslora": use_rslora}
            model.set_submodule(name, _adapted(name, layer, use_dora, quantize_base=quantised, **values))
        elif quantised:
            model.set_submodule(name, _quantised(layer))
    _warn_of_high_ranks(layers, ranks)
    for name in trained:
        model.get_submodule(name).requires_grad_(True)
    return model


def _with_experts(targets: Collection[str], layers: Mapping[str, nn.Module]) -> list[str]:
    """The targets, with the experts and without what only these have, where the whole feed-forward is meant."""
    experts = [name for name, layer in layers.items() if isinstance(layer, GroupedExperts)]
    if not experts or not set(targets) >= _MLP:
        return list(targets)
    return [*experts, *(t for t in targets if t not in _MLP or any(_means(t, name) for name in layers))]


def _adapted(name: str, layer: nn.Linear | GroupedExperts, use_dora: bool, **values: Any) -> AdaptedLayer:
    if not isinstance(layer, GroupedExperts):
        return (DoRALinear if use_dora else LoRALinear).from_linear(layer, **values)
    if use_dora:
        raise ConfigError(
            f"use_dora: {name} are experts, which can have LoRA only; leave them out (apply_lora_to_mlp: False), or "
            "set use_dora: False"
        )
    return LoRAGroupedExperts.from_experts(layer, **values)


def _quantised(layer: nn.Linear | GroupedExperts) -> nn.Module:
    if isinstance(layer, GroupedExperts):
        layer.quantize()
        return layer
    return FrozenNF4Linear.from_linear(layer)


def _check_sense(model: nn.Module, targets: Collection[str], trainable: Collection[str]) -> None:
    if adapted_layers(model):
        raise ConfigError("the model has adapters already; give it all of them at once")
    if not targets and not trainable:
        raise ConfigError("no layer gets an adapter, so nothing would be trained; name some in lora_attn_modules")
    if "output" in (*targets, *trainable) and isinstance(getattr(model, "output", None), TiedLinear):
        raise ConfigError(
            "output shares the token embedding's weight and has none of its own to adapt or train; leave it out "
            "(apply_lora_to_output: False), train the shared one in full (trainable_modules: [tok_embeddings]), or "
            "untie them (tie_word_embeddings: False)"
        )


def _named(wanted: str, names: Iterable[str], what: str) -> list[str]:
    found = [name for name in names if _means(wanted, name)]
    if not found:
        known = sorted({name.rpartition(".")[2] for name in names})
        near = difflib.get_close_matches(wanted.rpartition(".")[2], known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"the model has no {what} called {wanted!r}.{hint} It has {', '.join(known)}.")
    return found


def _means(wanted: str, name: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _values(usual: Any, pattern: Mapping[str, Any] | None, chosen: Collection[str]) -> dict[str, Any]:
    """The value of each chosen layer; of several keys that mean it, the longest counts."""
    values = dict.fromkeys(chosen, usual)
    for key in sorted(pattern or {}, key=len):
        values |= dict.fromkeys(_named(key, chosen, "adapted layer"), pattern[key])
    return values


def _trainable_names(wanted: str, model: nn.Module, chosen: Collection[str]) -> list[str]:
    own = [name for name, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    names = _named(wanted, own, "module with parameters")
    if both := sorted(set(names) & set(chosen)):
        raise ConfigError(f"{both[0]} cannot have an adapter and be trained in full as well; leave it out of one list")
    return names


def _sizes(layer: nn.Linear | GroupedExperts) -> tuple[int, int]:
    """Inputs and outputs; of experts those of their first two products."""
    if isinstance(layer, GroupedExperts):
        return layer.dim, layer.hidden_dim
    return layer.in_features, layer.out_features


def _warn_of_high_ranks(layers: Mapping[str, nn.Linear | GroupedExperts], ranks: Mapping[str, int]) -> None:
    high = [name for name, layer in layers.items() if ranks.get(name, 0) > min(_sizes(layer))]
    if high:
        width = min(_sizes(layers[high[0]]))
        log_rank_zero(
            logger,
            f"lora_rank {ranks[high[0]]} is above the width of {high[0]}, {width}, and so in {len(high)} layer(s). "
            "More rows than that cost memory and can learn nothing more; rank_pattern sets the rank of single layers.",
            logging.WARNING,
        )


def _check_quantisable(name: str, layer: nn.Linear | GroupedExperts, block_size: int = 64) -> None:
    inputs, outputs = _sizes(layer)
    for size in (inputs, outputs) if isinstance(layer, GroupedExperts) else (inputs,):
        if size % block_size:
            raise ConfigError(
                f"quantize_base: {name} has {size} inputs, which is no multiple of the {block_size} weights that share "
                "a scale"
            )


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLayer]:
    """The layers that have an adapter, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, AdaptedLayer)}


def adapter_names(model: nn.Module) -> list[str]:
    """What an adapter file holds of a model: its adapters and, where it has some, what else is trained."""
    layers = adapted_layers(model)
    own = [f"{name}.{leaf}" for name, layer in layers.items() for leaf in layer.adapter_params()]
    return own + whole_trained_names(model) if layers else []


def whole_trained_names(model: nn.Module) -> list[str]:
    """Parameters that are trained as they are, beside the adapters."""
    own = {f"{name}.{leaf}" for name, layer in adapted_layers(model).items() for leaf in layer.adapter_params()}
    return [name for name, p in model.named_parameters() if p.requires_grad and name not in own]


def initial_adapters(model: nn.Module, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """A and B of every adapter, whole and in float32, drawn in the order of the layers.

    A process that holds a piece of them draws them whole and keeps its piece, so that a start does not depend on the
    number of processes.
    """
    for name, layer in adapted_layers(model).items():
        for pair in layer.adapted.values():
            a, b = (layer.get_parameter(leaf).shape for leaf in pair)
            bound = 1 / math.sqrt(a[1])  # what ``nn.init.kaiming_uniform_(a=sqrt(5))`` comes to
            yield f"{name}.{pair[0]}", torch.empty(a).uniform_(-bound, bound, generator=generator)
            yield f"{name}.{pair[1]}", torch.zeros(b)
