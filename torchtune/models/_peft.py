"""PEFT's format of adapters: names of tensors and ``adapter_config.json``, both ways and without files.

Format: https://huggingface.co/docs/peft/main/en/developer_guides/checkpoint; fields as PEFT 0.21.2 has them.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.models._peft_experts import (
    check_expressible,
    experts_apart,
    experts_together,
    names_of_adapters,
    parameters_of,
    paths_of_stacks,
    shapes_apart,
)
from torchtune.models._peft_fused import fused_reads, fused_writes, is_fused
from torchtune.models._tensor_forms import Read, ReadExperts, Shape, Write
from torchtune.models._text_part import is_inside
from torchtune.models._weights import EMBEDDING, OUTPUT, WeightMap
from torchtune.modules.moe import LoRAGroupedExperts
from torchtune.modules.peft import AdapterSpec, rank_of

_PREFIX = "base_model.model."
_A, _B, _MAGNITUDE = ".lora_a.weight", ".lora_b.weight", ".magnitude"
_EXPERTS_A, _EXPERTS_B = (tuple(f".{pair[i]}" for pair in LoRAGroupedExperts.adapted.values()) for i in (0, 1))
_LEAVES = (_A, _B, _MAGNITUDE, *_EXPERTS_A, *_EXPERTS_B)
# PEFT itself leaves out the last ".weight" and reads both forms, but transformers 5.23 then misses the magnitudes.
_THEIRS = {_A: ".lora_A.weight", _B: ".lora_B.weight", _MAGNITUDE: ".lora_magnitude_vector.weight"}
# A key may hold the adapter's name.
_OURS = {
    re.compile(r"\.lora_A(\.[^.]+)?\.weight$"): _A,
    re.compile(r"\.lora_B(\.[^.]+)?\.weight$"): _B,
    re.compile(r"\.lora_magnitude_vector(\.[^.]+)*$"): _MAGNITUDE,
    re.compile(r"\.modules_to_save\.[^.]+(?=\.\w+$)"): "",
}

# What a config may say: fields that are read here, and others that change nothing about finished tensors.
_READ = {
    "peft_type", "bias", "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "init_lora_weights", "ensure_weight_tying", "base_model_name_or_path", "target_parameters",
}  # fmt: skip
_WITHOUT_EFFECT = {
    "revision", "task_type", "peft_version", "auto_mapping", "inference_mode", "target_modules", "exclude_modules",
    "modules_to_save", "layers_to_transform", "layers_pattern", "megatron_config", "megatron_core",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size",
}  # fmt: skip
_NEUTRAL_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # the others change the base as well


def is_peft(names: Iterable[str]) -> bool:
    """Whether these are PEFT's names of tensors."""
    return any(name.startswith(_PREFIX) for name in names)


def peft_writes(names: WeightMap, native: Mapping[str, Tensor], *, head_dim: int | None) -> list[Write]:
    """What to write for each of PEFT's tensors.

    Args:
        names: the names that the base has in transformers.
        native: our tensors; only their names and shapes are used.
        head_dim: channels of one attention head: B and the magnitude have their rows in the base's order.

    Raises:
        CheckpointError: PEFT has no tensor for one of ours.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in native.items()}
    stacks = fused_writes(names, shapes)
    inside = {name for write in stacks for name in write.natives}
    others = {name: shape for name, shape in shapes.items() if name not in inside}
    writes = [*names_of_adapters(names).plan_write(others, head_dim=head_dim), *stacks]
    return [replace(w, foreign=_theirs(w.foreign)) for w in writes]


def peft_reads(
    names: WeightMap, found: Mapping[str, Shape], *, head_dim: int | None, config: Mapping[str, Any] | None = None
) -> list[Read]:
    """How each of our tensors is made of PEFT's.

    Args:
        config: the ``adapter_config.json``; needed for experts that PEFT has adapted as stacks.

    Raises:
        CheckpointError: a tensor has no name here.
    """
    given = {_ours(name): name for name in found}
    shapes = {ours: found[name] for ours, name in given.items()}
    fused = {ours: shape for ours, shape in shapes.items() if config and is_fused(ours)}
    # A file may have the frozen weight of an adapted output projection; the base has it too.
    others = {ours: shape for ours, shape in shapes.items() if ours not in fused and ".base_layer." not in ours}
    plan = names_of_adapters(names).plan_read(others, head_dim=head_dim)
    if plan.unexpected:
        first = plan.unexpected[0]
        raise CheckpointError(
            f"{len(plan.unexpected)} tensor(s) belong to no layer of the model, for example {given[first]}; nearest "
            f"known: {names.nearest(first)}"
        )
    if plan.missing:
        raise CheckpointError(f"adapters are missing: {plan.missing[0]}")
    stacks = fused_reads(names, fused, lambda path: _rank_and_scale(path, config))
    return [_renamed(read, given) for read in (*plan.reads, *stacks)]


def _renamed(read: Read, names: Mapping[str, str]) -> Read:
    others = {"experts": {i: names[n] for i, n in read.experts.items()}} if isinstance(read, ReadExperts) else {}
    return replace(read, foreign=names[read.foreign], **others)


def _theirs(name: str) -> str:
    leaf = next((leaf for leaf in _THEIRS if name.endswith(leaf)), "")
    return _PREFIX + name.removesuffix(leaf) + _THEIRS.get(leaf, "")


def _ours(name: str) -> str:
    name = name.removeprefix(_PREFIX)
    for pattern, leaf in _OURS.items():
        name = pattern.sub(leaf, name)
    return name


def layer_of(name: str) -> str | None:
    """The adapted layer that a tensor of ours belongs to; None for a parameter that is trained in full."""
    return next((name.removesuffix(leaf) for leaf in _LEAVES if name.endswith(leaf)), None)


def ranks_of(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The rank of each adapted layer, by the shape of its A."""
    return {layer_of(name): rank_of(shape) for name, shape in shapes.items() if name.endswith((_A, *_EXPERTS_A))}


def trains_tied_embedding(spec: AdapterSpec) -> bool:
    """Whether the token embedding is trained as one weight with the output projection."""
    return EMBEDDING in spec.trained and OUTPUT not in spec.trained and "output" not in (*spec.ranks, *spec.others)


def peft_config(spec: AdapterSpec, names: WeightMap, base_name: str | None) -> dict[str, Any]:
    """The ``adapter_config.json`` of a model's adapters.

    Args:
        base_name: what PEFT users load the base by: a name on the Hub, or a folder.

    Raises:
        CheckpointError: PEFT cannot express the adapters.
    """
    if not spec.ranks:
        raise CheckpointError("no layer has an adapter")
    if both := [name for name in spec.trained if name.rpartition(".")[0] in spec.ranks]:
        raise CheckpointError(f"{both[0]} is trained in full below an adapter")
    spec = experts_apart(spec, names)
    path_of = _paths(names_of_adapters(names), [*spec.ranks, *spec.others])
    rank, ranks = _commonest({path_of[layer]: rank for layer, rank in spec.ranks.items()})
    alpha, alphas = _commonest({path_of[layer]: _whole(alpha) for layer, alpha in spec.alphas.items()})
    check_expressible(spec, names, rank, alpha, path_of)
    parameters = parameters_of(spec.ranks, names)
    others = [path_of[layer] for layer in spec.others]
    targets = _targets([path_of[layer] for layer in spec.ranks if layer not in parameters], others)
    config = peft_fields(rank, alpha, targets, base_name)
    config |= {"lora_dropout": spec.dropout, "use_rslora": spec.use_rslora, "use_dora": spec.use_dora}
    config |= {"rank_pattern": ranks, "alpha_pattern": alphas}
    config |= {"task_type": "SEQ_CLS"} if names.knows("score.weight") else {}
    if parameters:
        config["target_parameters"] = sorted({re.split(r"layers\.\d+\.", path_of[name])[-1] for name in parameters})
    tied = trains_tied_embedding(spec)
    if trained := [*spec.trained, *([OUTPUT] if tied else [])]:
        # PEFT takes every module whose path ends like this, so that `norm` would mean `input_layernorm` too.
        found = names.plan_write(trained, head_dim=None)
        config["modules_to_save"] = list(dict.fromkeys(w.foreign.rpartition(".")[0] for w in found))
    return config | ({"ensure_weight_tying": True} if tied else {})


def peft_fields(r: int, lora_alpha: float, target_modules: list[str], base_name: str | None) -> dict[str, Any]:
    """A whole ``adapter_config.json`` for plain LoRA."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "revision": None,
        "r": r,
        "lora_alpha": lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": target_modules,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "peft_version": "0.21.2",
    }


def _paths(names: WeightMap, layers: Iterable[str]) -> dict[str, str]:
    """The path that each of our linear layers has in transformers."""
    writes = names.plan_write([f"{layer}.weight" for layer in layers], head_dim=None)
    return {n.removesuffix(".weight"): w.foreign.removesuffix(".weight") for w in writes for n in w.natives}


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _targets(paths: Iterable[str], others: Iterable[str]) -> list[str]:
    """Last names; whole paths where the last name would mean a layer without an adapter too, such as one for images."""
    ambiguous = {_last(path) for path in others}
    whole = (path if is_inside(path) or _last(path) in ambiguous else _last(path) for path in paths)
    return list(dict.fromkeys(whole))


def _commonest(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The commonest value, and the others by last name where all of that name share one, else by path."""
    usual = Counter(values.values()).most_common(1)[0][0]
    paths_of: dict[str, list[str]] = defaultdict(list)
    for path in values:
        paths_of[_last(path)].append(path)
    others = {}
    for last, paths in paths_of.items():
        keys = {last: values[paths[0]]} if len({values[p] for p in paths}) == 1 else {p: values[p] for p in paths}
        others |= {key: value for key, value in keys.items() if value != usual}
    return usual, others


def _whole(alpha: float) -> float:
    return int(alpha) if float(alpha).is_integer() else alpha


def spec_of_peft(config: Mapping[str, Any], names: WeightMap, shapes: Mapping[str, Shape]) -> AdapterSpec:
    """What an ``adapter_config.json`` says of adapters whose tensors, by our names, have these shapes.

    The tensors tell which layers have an adapter, so ``target_modules`` need not be understood.

    Raises:
        CheckpointError: the config contradicts the tensors.
    """
    shapes = shapes_apart(shapes)
    paths = _paths(names_of_adapters(names), ranks_of(shapes))
    if parameters := config.get("target_parameters"):
        paths = paths_of_stacks(paths, parameters)
    ranks = {layer: _value_of(path, config, "rank_pattern", "r") for layer, path in paths.items()}
    use_dora = any(name.endswith(_MAGNITUDE) for name in shapes)
    for layer, rank in ranks_of(shapes).items():
        if ranks[layer] != rank:
            raise CheckpointError(f"it gives {paths[layer]} rank {ranks[layer]}, but the tensors have rank {rank}")
    if config.get("use_dora", use_dora) != use_dora:
        raise CheckpointError(f"it says use_dora {config['use_dora']}, but the tensors say {use_dora}")
    spec = AdapterSpec(
        ranks=ranks,
        alphas={layer: _value_of(path, config, "alpha_pattern", "lora_alpha") for layer, path in paths.items()},
        dropout=config.get("lora_dropout", 0.0),
        use_rslora=bool(config.get("use_rslora")),
        use_dora=use_dora,
        trained=tuple(name for name in shapes if layer_of(name) is None),
        others=() if config.get("ensure_weight_tying") else ("output",),  # as trains_tied_embedding wants to know
    )
    return experts_together(spec)


def check_method(config: Mapping[str, Any]) -> None:
    """Refuse an ``adapter_config.json`` of what the layers here cannot be.

    Raises:
        CheckpointError: with the field and its value.
    """
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"peft_type is {config.get('peft_type')!r}; only 'LORA' is known here")
    if missing := {"r", "lora_alpha"} - config.keys():
        raise CheckpointError(f"it has no {' and no '.join(sorted(missing))}")
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"bias is {config['bias']!r}; biases trained beside an adapter are not known here")
    if (start := config.get("init_lora_weights", True)) not in _NEUTRAL_STARTS:
        raise CheckpointError(
            f"init_lora_weights is {start!r}, which changes the weights of the base too; PEFT undoes that for some, "
            "with save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    for field, value in config.items():
        if value and field not in _READ | _WITHOUT_EFFECT:
            raise CheckpointError(f"{field} is {value!r}, which the layers here cannot do")


def _rank_and_scale(path: str, config: Mapping[str, Any]) -> tuple[int, float]:
    rank, alpha = _value_of(path, config, "rank_pattern", "r"), _value_of(path, config, "alpha_pattern", "lora_alpha")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _value_of(path: str, config: Mapping[str, Any], patterns: str, usual: str) -> Any:
    """A layer's value: that of the first pattern which matches the end of its path, from a dot on
    (https://github.com/huggingface/peft/blob/main/src/peft/utils/other.py: get_pattern_key).
    """
    for pattern, value in (config.get(patterns) or {}).items():
        try:
            if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", path):
                return value
        except re.error as e:
            raise CheckpointError(f"{patterns} has {pattern!r}, which is no regular expression ({e})") from e
    return config[usual]


def spec_of_torchtune(config: Mapping[str, Any], shapes: Mapping[str, Shape], model: Iterable[str]) -> AdapterSpec:
    """What torchtune's ``{r, lora_alpha, target_modules, peft_type}`` says of adapters with tensors of these shapes.

    Args:
        model: names of the merged model's tensors; without them, short names are taken to mean all their layers.
    """
    ranks = ranks_of(shapes)
    weights = [name.removesuffix(".weight") for name in model if name.endswith(".weight")]
    return AdapterSpec(
        ranks=ranks,
        alphas=dict.fromkeys(ranks, config["lora_alpha"]),
        use_rslora=bool(config.get("use_rslora")),
        use_dora=any(name.endswith(_MAGNITUDE) for name in shapes),
        trained=tuple(name for name in shapes if layer_of(name) is None),
        others=tuple(name for name in weights if name not in ranks),
    )
