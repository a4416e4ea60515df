"""Whether the adapters in a file belong on a model, and what to say when they do not."""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torchtune.errors import CheckpointError
from torchtune.models._peft import layer_of, ranks_of, trains_tied_embedding
from torchtune.models._weights import EMBEDDING
from torchtune.modules.moe import LoRAGroupedExperts
from torchtune.modules.peft import AdapterSpec
from torchtune.training.checkpointing.adapter import LoadedAdapter

_SHOWN = 5
_WITHOUT_RANK = {
    ".lora_a.weight": slice(1, None),
    ".lora_b.weight": slice(1),
    **{f".{a}": slice(2) for a, _ in LoRAGroupedExperts.adapted.values()},  # [experts, in, rank]
    **{f".{b}": slice(None, None, 2) for _, b in LoRAGroupedExperts.adapted.values()},  # [experts, rank, out]
}

Shapes = Mapping[str, tuple[int, ...]]


def check_adapter(loaded: LoadedAdapter, spec: AdapterSpec, shapes: Shapes, base: str | None) -> None:
    """Refuse adapters of another model, of other settings or of another base.

    Args:
        spec: the model's adapters, and ``shapes`` those of their tensors.
        base: the fingerprint of the weights below them; None when it is not known.

    Raises:
        CheckpointError: with every difference.
    """
    faults = [
        *_base_faults(loaded.base, base),
        *(_setting_faults(loaded.spec, spec) if loaded.spec else ()),
        *_number_faults("lora_rank", ranks_of(shapes), ranks_of(loaded.infos)),
        *(_number_faults("lora_alpha", spec.alphas, loaded.spec.alphas) if loaded.spec else ()),
        *_name_faults(shapes, loaded.infos),
        *_shape_faults(shapes, loaded.infos),
    ]
    if faults:
        lines = "\n".join(f"  {fault}" for fault in faults)
        raise CheckpointError(
            f"the adapter in {loaded.path} does not fit the model:\n{lines}\n"
            "Set the model in the config as the adapter was trained, or name an adapter of this model."
        )


def _base_faults(there: str | None, here: str | None) -> Iterator[str]:
    if there and here and there != here:
        yield (
            "it was trained on other weights than those in checkpoint_dir, so it would change these at random; if they "
            "are the merged weights of its run, they contain it already"
        )


def _setting_faults(there: AdapterSpec, here: AdapterSpec) -> Iterator[str]:
    for name in ("use_rslora", "use_dora"):
        if getattr(there, name) != getattr(here, name):
            yield f"{name} is {getattr(here, name)} here, {getattr(there, name)} in the file"
    tied_there, tied_here = trains_tied_embedding(there), trains_tied_embedding(here)
    if EMBEDDING in there.trained and EMBEDDING in here.trained and tied_there != tied_here:
        one, two = ("here", "in the file") if tied_here else ("in the file", "here")
        yield (
            f"the token embedding and the output projection are one trained weight {one}, and two {two} "
            "(tie_word_embeddings)"
        )


def _number_faults(name: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    layers_of: dict[tuple, list[str]] = defaultdict(list)
    for layer in here.keys() & there.keys():
        layers_of[here[layer], there[layer]].append(layer)
    for (ours, theirs), layers in layers_of.items():
        where = f" for {_some(sorted(layers))}" if len(layers_of) > 1 else ""
        if ours != theirs:
            yield f"{name} is {ours} here, {theirs} in the file{where}"


def _name_faults(here: Shapes, there: Shapes) -> Iterator[str]:
    """Layers that only one has; of layers that both have, single tensors."""
    our_units, their_units = _units(here), _units(there)
    both = our_units.keys() & their_units.keys()
    lost = [unit for unit in our_units if unit not in both]
    extra = [unit for unit in their_units if unit not in both]
    for unit in sorted(both):
        lost += sorted(our_units[unit] - their_units[unit])
        extra += sorted(their_units[unit] - our_units[unit])
    if lost:
        yield f"trained here and not in the file: {_some(lost)}"
    if extra:
        near = difflib.get_close_matches(extra[0], our_units, n=1)
        hint = f"; nearest to {extra[0]} is {near[0]}" if near else ""
        yield f"trained in the file and not here: {_some(extra)}{hint}"


def _units(names: Iterable[str]) -> dict[str, set[str]]:
    """The tensors of each adapted layer, and each parameter that is trained in full."""
    units: dict[str, set[str]] = defaultdict(set)
    for name in names:
        units[layer_of(name) or name].add(name)
    return units


def _shape_faults(here: Shapes, there: Shapes) -> Iterator[str]:
    """All but the ranks, which are told by layer."""
    found = []
    for name in here:
        part = next((part for leaf, part in _WITHOUT_RANK.items() if name.endswith(leaf)), slice(None))
        if name in there and here[name][part] != there[name][part]:
            found.append(f"{name} is {list(here[name])} here and {list(there[name])} in the file")
    if found:
        yield _some(found)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
