"""How datasets are mixed: what an epoch takes from each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchtune.data_report._facts import Facts
from torchtune.datasets import MixtureDataset, MixtureStream
from torchtune.datasets._parts import Part

DEFAULT_STOP = "all_exhausted"


@dataclass(frozen=True)
class Source:
    """One of the datasets of a mixture.

    Args:
        name: where it stands in the config.
        weight: the config's.
        share: of the samples (packs, when packed) of an epoch; of a stream, how likely it is drawn.
        samples: in an epoch; None of a stream.
        times: how often an epoch has each of its samples; None of a stream.
    """

    name: str
    weight: float
    share: float
    samples: int | None
    times: float | None


@dataclass(frozen=True)
class Mixture:
    """Datasets with weights.

    Args:
        stop: ``mixture_stop``.
        samples: in an epoch; None of streams.
        is_packed: whether samples are packs.
    """

    stop: str
    samples: int | None
    is_packed: bool
    sources: list[Source]


def sizes_of(parts: Sequence[Part], facts: Sequence[Facts]) -> dict[str, int]:
    """Name of a part -> samples, or packs, of the whole of it; packs are reckoned from the rows that were looked at.

    Args:
        facts: of each part.
    """
    return {part.name: round(of.samples * part.total / max(len(part.table), 1)) for part, of in zip(parts, facts)}


def mixture_of(dataset: Any, name: str, nodes: Any, stop: str | None, sizes: Mapping[str, int]) -> Mixture | None:
    """What an epoch takes from the datasets; None where they are not mixed by weight.

    Args:
        name: where the dataset stands in the config.
        nodes: the entries of the config.
        sizes: samples of each part; none of a stream.
    """
    if not isinstance(dataset, MixtureDataset | MixtureStream):
        return None
    names = [f"{name}[{number}]" for number in range(len(nodes))]
    weights = [float(node["weight"]) for node in nodes]
    if isinstance(dataset, MixtureStream):
        sources = [Source(one, w, w / sum(weights), None, None) for one, w in zip(names, weights)]
        return Mixture(stop or DEFAULT_STOP, None, dataset.packed, sources)
    lengths = [sum(size for part, size in sizes.items() if _is_in(part, one)) for one in names]
    counts = dataset.epoch_order(seed=0, shuffle=False, lengths=lengths).counts
    sources = [
        Source(one, weight, count / sum(counts), count, count / length)
        for one, weight, count, length in zip(names, weights, counts, lengths)
    ]
    return Mixture(stop or DEFAULT_STOP, sum(counts), dataset.packed, sources)


def _is_in(part: str, name: str) -> bool:
    return part == name or part.startswith(f"{name}[")
