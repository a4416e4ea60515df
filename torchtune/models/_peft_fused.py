"""Adapters of experts as PEFT trains them on transformers 5, where a layer's experts are two stacks.

Of E experts, ``gate_up_proj`` has an A [E * R, in] and a B [out, R * E], whose columns have the experts innermost; so
has ``down_proj``. PEFT wraps the experts once for each, which makes the names ``experts.base_layer.lora_A`` and
``experts.lora_A`` (https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/layer.py: ParamWrapper).

Here ``gate_proj`` and ``up_proj`` have adapters of their own. In PEFT's they have one A, or, where PEFT itself has put
separate ones together, twice the rank and a B that is zero where one's ranks meet the other's rows.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.models._tensor_forms import Columns, Fetch, PerExpert, Read, Shape, Write
from torchtune.models._weights import WeightMap
from torchtune.modules.moe import LoRAGroupedExperts

# A is called lora_a and B lora_b already.
_NAME = re.compile(r"(.*layers\.(\d+)\.\w+\.experts)(\.base_layer)?\.lora_([ab])\.weight")


@dataclass(frozen=True)
class _Part:
    """What belongs to one stack of ours: of the ``rank`` these ``ranks``, and these rows of B."""

    stack: str
    rank: int
    ranks: slice
    rows: slice


@dataclass(frozen=True)
class _ReadA(Read):
    part: _Part | None = None

    def shape(self, foreign: Shape) -> Shape:
        return foreign[0] // self.part.rank, foreign[1], _length(self.part.ranks, self.part.rank)

    def make(self, fetch: Fetch) -> Tensor:
        whole = fetch(self.foreign, None)
        return whole.view(-1, self.part.rank, whole.shape[1])[:, self.part.ranks].transpose(1, 2).contiguous()


@dataclass(frozen=True)
class _ReadB(Read):
    part: _Part | None = None

    def shape(self, foreign: Shape) -> Shape:
        rank, rows = self.part.rank, _length(self.part.rows, foreign[0])
        return foreign[1] // rank, _length(self.part.ranks, rank), rows

    def make(self, fetch: Fetch) -> Tensor:
        whole = fetch(self.foreign, None)
        rows = whole.view(len(whole), self.part.rank, -1)[self.part.rows]
        own = rows[:, self.part.ranks]
        if rows.count_nonzero() != own.count_nonzero():
            raise CheckpointError(f"{self.foreign} mixes the ranks of gate_proj and up_proj, which have their own here")
        return own.permute(2, 1, 0).contiguous()


def _length(part: slice, size: int) -> int:
    return len(range(*part.indices(size)))


def is_fused(name: str) -> bool:
    """Whether this is the name of an adapter of all experts of a layer, with our ``lora_a`` or ``lora_b`` in it."""
    return _NAME.fullmatch(name) is not None


def fused_reads(
    names: WeightMap, found: Mapping[str, Shape], rank_and_scale: Callable[[str], tuple[int, float]]
) -> list[Read]:
    """How adapters of ours are made of PEFT's.

    Args:
        names: the names that the base has in transformers.
        found: shapes by names that :func:`is_fused` knows.
        rank_and_scale: what the config gives a stack, by its path in transformers.

    Raises:
        CheckpointError: the adapters cannot be taken apart, or one of the stacks has none.
    """
    interleaved = is_interleaved(names)
    reads: list[Read] = []
    for name, shape in found.items():
        path, layer, inner, leaf = _NAME.fullmatch(name).groups()
        other = f"{path}{'' if inner else '.base_layer'}.lora_{leaf}.weight"
        if other not in found:
            raise CheckpointError(f"there is {name} but no {other}: gate_up_proj and down_proj both need an adapter")
        (rank, scale), (rank_of_down, other_scale) = (
            rank_and_scale(f"{path}.{stack}") for stack in ("gate_up_proj", "down_proj")
        )
        if rank not in (rank_of_down, 2 * rank_of_down) or not math.isclose(scale, other_scale):
            raise CheckpointError(
                f"in {path} gate_up_proj has adapters of rank {rank} and scale {scale:g}, down_proj of rank "
                f"{rank_of_down} and scale {other_scale:g}; here the scales must be the same, and the ranks too, or "
                "the first be twice the second"
            )
        for part in _gate_and_up(rank, rank_of_down, shape[0], interleaved) if inner else [_down(rank_of_down)]:
            native = LoRAGroupedExperts.adapted[part.stack]["ab".index(leaf)]
            kind = _ReadA if leaf == "a" else _ReadB
            reads.append(kind(f"layers.{layer}.mlp.experts.{native}", name, part=part))
    return reads


def is_interleaved(names: WeightMap) -> bool:
    """Whether the columns of ``gate_up_proj`` come in turn."""
    return any(isinstance(rule, Columns) and rule.interleaved for rule in names.rules.values())


@dataclass(frozen=True)
class _WriteA(Write):
    def finish(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.transpose(1, 2) for part in parts], dim=1).flatten(0, 1)


@dataclass(frozen=True)
class _WriteB(Write):
    """B of one stack, or of two, whose ranks meet only their own rows."""

    interleaved: bool = False

    def finish(self, parts: Sequence[Tensor]) -> Tensor:
        experts, rank, rows = parts[0].shape
        whole = parts[0].new_zeros(len(parts) * rows, len(parts) * rank, experts)
        for i, part in enumerate(parts):
            own = slice(i, None, len(parts)) if self.interleaved else slice(i * rows, (i + 1) * rows)
            whole[own, i * rank : (i + 1) * rank] = part.permute(2, 1, 0)
        return whole.flatten(1)


def fused_writes(names: WeightMap, native: Iterable[str]) -> list[Write]:
    """How PEFT's adapters of stacks are made of those of experts among ours; nothing where experts are apart.

    Args:
        names: the names that the base has in transformers.
    """
    if are_apart(names):
        return []
    writes: list[Write] = []
    (gate, up, down), interleaved = LoRAGroupedExperts.adapted.values(), is_interleaved(names)
    for owner in [name.rpartition(".")[0] for name in native if name.rpartition(".")[2] == down[0]]:
        path = names.holder_of(f"{owner}.gate_proj")[0].rpartition(".")[0]
        for place, stacks in ((f"{path}.base_layer", (gate, up)), (path, (down,))):
            a, b = (tuple(f"{owner}.{name}" for name in leaves) for leaves in zip(*stacks))
            writes += [_WriteA(f"{place}.lora_a.weight", a), _WriteB(f"{place}.lora_b.weight", b, None, interleaved)]
    return writes


def are_apart(names: WeightMap) -> bool:
    """Whether transformers' files have a tensor for each expert."""
    return any(isinstance(rule, PerExpert) for rule in names.rules.values())


def _down(rank: int) -> _Part:
    return _Part("down_proj", rank, slice(None), slice(None))


def _gate_and_up(rank: int, rank_of_down: int, height: int, interleaved: bool) -> list[_Part]:
    """``height`` is the number of B's rows; of an A it is not read."""
    half, own = height // 2, slice(rank_of_down)
    rows = (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(half), slice(half, None))
    ranks = (own, own if rank == rank_of_down else slice(rank_of_down, None))
    return [_Part(stack, rank, *part) for stack, part in zip(("gate_proj", "up_proj"), zip(ranks, rows))]
