"""Adapters of experts in PEFT's format, which has two forms of them.

Where transformers' files have a tensor for each expert, each matrix of each expert is a linear layer with an adapter of
its own. That is how transformers 4 had experts; on transformers 5, which keeps stacks, PEFT puts such adapters
together. Where the files have stacks, these are parameters with adapters: :mod:`torchtune.models._peft_fused`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torchtune.errors import CheckpointError
from torchtune.models._peft_fused import are_apart, is_interleaved
from torchtune.models._tensor_forms import Columns, PerExpert, Shape
from torchtune.models._weights import Rule, WeightMap
from torchtune.modules.moe import LoRAGroupedExperts
from torchtune.modules.peft import AdapterSpec, LoRALinear

_PAIRS = LoRAGroupedExperts.adapted
_STACK_OF = {leaf: (stack, place) for stack, pair in _PAIRS.items() for place, leaf in enumerate(pair)}
_AS_LINEAR = LoRALinear.adapted["weight"]


def names_of_adapters(names: WeightMap) -> WeightMap:
    """The names of a model in transformers, with those of its experts' adapters in place of their weights'.

    A stack is there under its own name too, as if it were a linear layer, for what is said of layers by name.
    """
    rules: dict[str, Rule] = {}
    for theirs, rule in names.rules.items():
        if isinstance(rule, Columns):
            rules |= {f"{theirs.rpartition('.')[0]}.{_last(ours)}": ours for ours in rule.natives}
            rules[theirs] = f"{rule.natives[0].rpartition('.')[0]}.{_last(theirs)}"
        elif isinstance(rule, PerExpert):
            (before, after), owner = theirs.rsplit(".{}", 1), rule.native.rpartition(".")[0]
            rules[before + after.removesuffix(".weight")] = rule.native
            for leaf, ours in zip(_AS_LINEAR, _PAIRS[_last(rule.native)]):
                rules[f"{theirs.removesuffix('.weight')}.{leaf}"] = PerExpert(f"{owner}.{ours}")
        else:
            rules[theirs] = rule
    return replace(names, rules=rules)


def experts_apart(spec: AdapterSpec, names: WeightMap) -> AdapterSpec:
    """The same adapters, each stack of experts as a layer; without dropout, which PEFT does not have for experts.

    Raises:
        CheckpointError: the experts are stacks of a kind whose adapters PEFT has in yet another form.
    """
    if not any(map(is_experts, spec.ranks)):
        return spec
    if not are_apart(names) and not is_interleaved(names):
        raise CheckpointError("PEFT's form of adapters of such experts is not known here")
    stacks = dict.fromkeys(_PAIRS, 1) if are_apart(names) else {"gate_up_proj": 2, "down_proj": 1}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for layer, rank in spec.ranks.items():
        parts = {f"{layer}.{stack}": times for stack, times in stacks.items()} if is_experts(layer) else {layer: 1}
        for part, times in parts.items():
            ranks[part] = rank * times
            alphas[part] = spec.alphas[layer] * (math.sqrt(times) if spec.use_rslora else times)
    return replace(spec, ranks=ranks, alphas=alphas, dropout=0.0)


def parameters_of(layers: Iterable[str], names: WeightMap) -> list[str]:
    """Those of the layers of :func:`experts_apart` that are no modules in PEFT's sense, but parameters."""
    return [] if are_apart(names) else [layer for layer in layers if is_experts(layer.rpartition(".")[0])]


def check_expressible(spec: AdapterSpec, names: WeightMap, rank: int, alpha: float, path_of: Mapping[str, str]) -> None:
    """Refuse what PEFT does not do on transformers 5, where it makes one adapter of those of two projections.

    Args:
        spec: what :func:`experts_apart` gave.
        rank: of most layers, like ``alpha``.
        path_of: the name of each layer in transformers.

    Raises:
        CheckpointError: the experts have another rank or alpha, or use_rslora, or a feed-forward without experts has
            adapters too.
    """
    experts = [layer for layer in spec.ranks if _is_stack(layer)] if are_apart(names) else []
    if experts and spec.use_rslora:
        raise CheckpointError("use_rslora: PEFT takes adapters of experts with another scale than the one they have")
    for layer in experts:
        if (spec.ranks[layer], spec.alphas[layer]) != (rank, alpha):
            raise CheckpointError(
                f"{layer} has rank {spec.ranks[layer]} and alpha {spec.alphas[layer]}; PEFT gives experts those that "
                f"most layers have, {rank} and {alpha}"
            )
    names = {_last(path_of[layer]) for layer in experts}
    if same := [layer for layer in spec.ranks if layer not in experts and _last(path_of[layer]) in names]:
        raise CheckpointError(f"{same[0]} has an adapter, which PEFT takes for one of the experts of other layers")


def experts_together(spec: AdapterSpec) -> AdapterSpec:
    """The inverse of :func:`experts_apart`.

    Raises:
        CheckpointError: the stacks of a layer's experts have different adapters, or some have none.
    """
    layers = {name.rpartition(".")[0] for name in spec.ranks if _is_stack(name)}
    ranks, alphas = dict(spec.ranks), dict(spec.alphas)
    for layer in layers:
        found = {(ranks.pop(part, None), alphas.pop(part, None)) for part in (f"{layer}.{stack}" for stack in _PAIRS)}
        if len(found) > 1:
            raise CheckpointError(f"the projections of {layer} need adapters of one rank and alpha, not {found}")
        ((ranks[layer], alphas[layer]),) = found
    return replace(spec, ranks=ranks, alphas=alphas)


def paths_of_stacks(paths: Mapping[str, str], target_parameters: Iterable[str]) -> dict[str, str]:
    """Where PEFT adapts stacks, what a config says of ``down_proj`` holds for the other two, which are one there.

    Raises:
        CheckpointError: no layer has experts with adapters, so that the parameters must be others.
    """
    if not any(map(_is_stack, paths)):
        raise CheckpointError(f"target_parameters is {target_parameters}, and no tensor is an adapter of experts")
    return {layer: _beside(path, "down_proj") if _is_stack(layer) else path for layer, path in paths.items()}


def shapes_apart(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes of adapters by our names, those of stacks of experts as a linear layer's."""
    found = {}
    for name, shape in shapes.items():
        owner, _, leaf = name.rpartition(".")
        if leaf in _STACK_OF:
            stack, place = _STACK_OF[leaf]
            found[f"{owner}.{stack}.{_AS_LINEAR[place]}"] = shape[:0:-1]
        else:
            found[name] = shape
    return found


def is_experts(layer: str) -> bool:
    """Whether an adapted layer is the experts of one of the model's."""
    return _last(layer) == "experts"


def _is_stack(layer: str) -> bool:
    return is_experts(layer.rpartition(".")[0]) and _last(layer) in _PAIRS


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _beside(name: str, last: str) -> str:
    return f"{name.rpartition('.')[0]}.{last}"
