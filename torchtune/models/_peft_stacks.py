"""Adapters of layers that are one in transformers and several here, as Phi 3's queries, keys and values.

Side by side, such A matrices are one with the sum of their ranks, and such B matrices are the blocks of one. Of what
PEFT trains on the whole layer, each of ours has the whole A and some rows of B.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.models._family import Family
from torchtune.models._peft import ranks_of, spec_of_peft
from torchtune.models._peft_experts import is_experts
from torchtune.models._tensor_forms import Fetch, Read, Shape
from torchtune.models._weights import WeightMap
from torchtune.modules.peft import AdapterSpec

LORA_A, LORA_B, MAGNITUDE = ".lora_a.weight", ".lora_b.weight", ".magnitude"
Heights = Callable[[], Mapping[str, int]]
"""Gives the rows of each linear layer's weight, by our names; of none where they are not known."""
Parts = Mapping[str, Sequence[float]]
"""Rank and alpha of each of our layers that is a part of one in transformers."""


@dataclass(frozen=True)
class _Part:
    """Where a layer of ours lies in the whole one; ``ranks`` are rows of A and columns of B, None for no adapter."""

    layer: str
    rows: tuple[int, int]
    ranks: tuple[int, int] | None
    alpha: float = 0.0

    def of(self, read: Read) -> Read:
        """The read of this part of a tensor."""
        leaf = _leaf(read.native)
        if leaf == LORA_B:
            return _ReadBlock(self.layer + leaf, read.foreign, self.rows, columns=self.ranks)
        return Read(self.layer + leaf, read.foreign, self.ranks if leaf == LORA_A else self.rows)


@dataclass(frozen=True)
class _ReadBlock(Read):
    """Some columns of some ``rows``."""

    columns: tuple[int, int] = (0, 0)

    def shape(self, foreign: Shape) -> Shape:
        return tuple(last - first for first, last in (self.rows, self.columns))

    def make(self, fetch: Fetch) -> Tensor:
        return fetch(self.foreign, self.rows)[:, slice(*self.columns)].contiguous()


def heights_of(family: Family, config: Mapping[str, Any]) -> dict[str, int]:
    """The rows of each weight of the model that a ``config.json`` describes."""
    with torch.device("meta"):
        state = family.build(config).state_dict()
    return {name.removesuffix(".weight"): len(tensor) for name, tensor in state.items()}


def has_stacks(names: WeightMap) -> bool:
    """Whether any layer of transformers is several of ours."""
    return any(isinstance(ours, tuple) for ours in names.rules.values())


def without_stacks(names: WeightMap) -> WeightMap:
    """The same names, but that a layer which is several of ours keeps the one that it has in transformers."""
    rules = {theirs: theirs if isinstance(ours, tuple) else ours for theirs, ours in names.rules.items()}
    return replace(names, rules=rules)


def stack(
    tensors: Mapping[str, Tensor], spec: AdapterSpec, names: WeightMap, heights: Heights
) -> tuple[dict[str, Tensor], AdapterSpec, Parts]:
    """Adapters of whole layers, by the names of :func:`without_stacks`, and what their parts were.

    Raises:
        CheckpointError: no adapter of a whole layer does what those of its parts do.
    """
    adapted, others, heights = _stacks(names, spec.ranks), _stacks(names, spec.others), cache(heights)
    inside = {part for parts in (*adapted.values(), *others.values()) for part in parts}
    joined = {name: tensor for name, tensor in tensors.items() if _layer(name) not in inside}
    ranks, alphas = ({k: v for k, v in of.items() if k not in inside} for of in (spec.ranks, spec.alphas))
    for whole, parts in adapted.items():
        joined |= _joined(whole, _parts_of_ours(parts, spec, tensors, heights), tensors)
        ranks[whole] = sum(spec.ranks.get(part, 0) for part in parts)
        alphas[whole] = _one_scale(whole, parts, spec) * _divisor(ranks[whole], spec)
    left = [layer for layer in spec.others if layer not in inside] + [whole for whole in others if whole not in adapted]
    parts = {layer: (rank, spec.alphas[layer]) for layer, rank in spec.ranks.items() if layer in inside}
    return joined, replace(spec, ranks=ranks, alphas=alphas, others=tuple(left)), parts


def unstack(
    reads: Sequence[Read],
    shapes: Mapping[str, Shape],
    spec: AdapterSpec,
    names: WeightMap,
    heights: Heights,
    known: Parts,
) -> tuple[list[Read], AdapterSpec]:
    """Adapters of our layers, of those of whole ones; the inverse of :func:`stack`.

    Args:
        reads: by the names of :func:`without_stacks`, like ``shapes`` and ``spec``.
        known: the parts of what :func:`stack` made; a layer that is not among them is one that PEFT trained.

    Raises:
        CheckpointError: the tensors do not fit the model's layers.
    """
    parts, heights = {}, cache(heights)
    for whole, rank in spec.ranks.items():
        layers = names.held_by(f"{whole}.weight")
        if len(layers) > 1:
            found = [layer.removesuffix(".weight") for layer in layers]
            parts[whole] = _parts_of_theirs(whole, found, rank, spec.alphas[whole], heights(), known)
            if (rows := shapes[whole + LORA_B][0]) != parts[whole][-1].rows[1]:
                raise CheckpointError(f"{whole} has {rows} rows, but the model's has {parts[whole][-1].rows[1]}")
    ours = [part for found in parts.values() for part in found if part.ranks]
    cut = [part.of(read) for read in reads for part in parts.get(_layer(read.native), ()) if part.ranks]
    ranks, alphas = ({k: v for k, v in of.items() if k not in parts} for of in (spec.ranks, spec.alphas))
    ranks |= {part.layer: part.ranks[1] - part.ranks[0] for part in ours}
    alphas |= {part.layer: part.alpha for part in ours}
    kept = [read for read in reads if _layer(read.native) not in parts]
    return kept + cut, replace(spec, ranks=ranks, alphas=alphas)


def spec_of_parts(
    config: Mapping[str, Any], names: WeightMap, shapes: Mapping[str, Shape], known: Parts
) -> AdapterSpec:
    """What an ``adapter_config.json``, which speaks of whole layers, says of tensors of ours that have these shapes.

    Raises:
        CheckpointError: the config contradicts the tensors.
    """
    ranks = ranks_of(shapes)
    whole_of = {part: whole for whole, parts in _stacks(names, ranks).items() for part in parts}
    joined: dict[str, Shape] = {}
    for name, shape in shapes.items():
        layer = _layer(name)
        whole = whole_of[layer] + _leaf(name) if layer in whole_of else name
        joined[whole] = (joined.get(whole, (0,))[0] + shape[0], *shape[1:])
    spec = spec_of_peft(config, without_stacks(names), joined)
    alphas = {layer: spec.alphas[layer] for layer in ranks if layer not in whole_of}
    for layer in ranks.keys() - alphas.keys():
        whole = whole_of[layer]
        share = _divisor(ranks[layer], spec) / _divisor(spec.ranks[whole], spec)
        alphas[layer] = known[layer][1] if layer in known else spec.alphas[whole] * share
    return replace(spec, ranks=ranks, alphas=alphas)


def _parts_of_ours(
    layers: Sequence[str], spec: AdapterSpec, tensors: Mapping[str, Tensor], heights: Heights
) -> list[_Part]:
    missing = [layer for layer in layers if layer not in spec.ranks]
    if missing and spec.use_dora:
        raise CheckpointError(
            f"in transformers {' and '.join(layers)} are one layer, which DoRA adapts as a whole; give "
            f"{' and '.join(missing)} an adapter too"
        )
    rows = {layer: len(tensors[layer + LORA_B]) for layer in layers if layer in spec.ranks}
    return _laid_out(layers, (heights() if missing else {}) | rows, spec.ranks, spec.alphas)


def _parts_of_theirs(
    whole: str, layers: Sequence[str], rank: int, alpha: float, heights: Mapping[str, int], known: Parts
) -> list[_Part]:
    ranks = {layer: known[layer][0] for layer in layers if layer in known}
    if not ranks:
        parts = _laid_out(layers, heights, {}, {})
        return [replace(part, ranks=(0, rank), alpha=alpha) for part in parts]
    if sum(ranks.values()) != rank:
        raise CheckpointError(f"{whole} has rank {rank}, but its parts are said to have {list(ranks.values())}")
    return _laid_out(layers, heights, ranks, {layer: known[layer][1] for layer in ranks})


def _laid_out(
    layers: Sequence[str], heights: Mapping[str, int], ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> list[_Part]:
    parts, row, rank = [], 0, 0
    for layer in layers:
        if layer not in heights:
            raise CheckpointError(
                f"in transformers {' and '.join(layers)} are one layer, and how many rows of it are {layer} is not "
                "known; name the base's folder with its config.json as checkpoint_dir"
            )
        rows = (row, row := row + heights[layer])
        columns = (rank, rank := rank + ranks[layer]) if layer in ranks else None
        parts.append(_Part(layer, rows, columns, alphas.get(layer, 0.0)))
    return parts


def _joined(whole: str, parts: Sequence[_Part], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    adapted = [part for part in parts if part.ranks]
    first = tensors[adapted[0].layer + LORA_B]
    b = first.new_zeros(parts[-1].rows[1], adapted[-1].ranks[1])
    for part in adapted:
        b[slice(*part.rows), slice(*part.ranks)] = tensors[part.layer + LORA_B]
    joined = {whole + LORA_A: torch.cat([tensors[part.layer + LORA_A] for part in adapted]), whole + LORA_B: b}
    if parts[0].layer + MAGNITUDE in tensors:
        joined[whole + MAGNITUDE] = torch.cat([tensors[part.layer + MAGNITUDE] for part in parts])
    return joined


def _one_scale(whole: str, layers: Sequence[str], spec: AdapterSpec) -> float:
    scales = {layer: spec.alphas[layer] / _divisor(spec.ranks[layer], spec) for layer in layers if layer in spec.ranks}
    if not all(math.isclose(scale, next(iter(scales.values()))) for scale in scales.values()):
        told = ", ".join(f"{layer} {scale:g}" for layer, scale in scales.items())
        raise CheckpointError(f"{whole} can have one scale (alpha / rank) only, and those of its parts differ: {told}")
    return next(iter(scales.values()))


def _divisor(rank: int, spec: AdapterSpec) -> float:
    return math.sqrt(rank) if spec.use_rslora else rank


def _stacks(names: WeightMap, layers: Sequence[str] | Mapping[str, int]) -> dict[str, list[str]]:
    """Those whole layers of which ``layers`` has a part, with all their parts."""
    found = {}
    for layer in layers:
        if is_experts(layer):
            continue
        whole, parts = names.holder_of(f"{layer}.weight")
        if len(parts) > 1:
            found[whole.removesuffix(".weight")] = [part.removesuffix(".weight") for part in parts]
    return found


def _leaf(name: str) -> str:
    return next((leaf for leaf in (LORA_A, LORA_B, MAGNITUDE) if name.endswith(leaf)), "")


def _layer(name: str) -> str | None:
    return name.removesuffix(leaf) if (leaf := _leaf(name)) else None
