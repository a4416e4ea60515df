"""From a config's data to the loader of a run: one dataset, several, or a mixture; by number or as a stream."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from torchtune import config
from torchtune.config.schema import TrainConfig
from torchtune.data import StepLoader, StreamLoader
from torchtune.datasets import ConcatDataset, MixtureDataset, MixtureStream, PackedDataset
from torchtune.datasets._prepare import Preparation, tokenised
from torchtune.errors import ConfigError
from torchtune.training.distributed import World
from torchtune.training.setup import prepare_data

_WEIGHT = "weight"  # of an entry of a list of datasets; no argument of its component


def make_dataset(node: Any, tokenizer: Any, cfg: TrainConfig, world: World) -> Dataset:
    """The dataset of a component, or of a list of them: mixed where they have weights, else laid end to end.

    Raises:
        ConfigError: the entries of a list do not go together
    """
    dataset = build_dataset(node, tokenizer, cfg.mixture_stop)
    if not is_stream(dataset):
        prepare_data(dataset, cfg, world)
    return dataset


def build_dataset(node: Any, tokenizer: Any, mixture_stop: str | None) -> Dataset:
    """What :func:`make_dataset` gives, before anything is tokenised."""
    if not isinstance(node, list):
        return config.instantiate(node, tokenizer)
    made = [config.instantiate(_without_weight(one), tokenizer) for one in node]
    return _joined(made, [one[_WEIGHT] for one in node if _WEIGHT in one], mixture_stop)


def is_stream(dataset: Dataset) -> bool:
    """Whether a dataset gives its samples one after the other, and not by number."""
    return getattr(dataset, "streaming", False)


def make_loader(
    dataset: Dataset, collate: Callable[[list[Any]], Any], seed: int, cfg: TrainConfig, world: World
) -> StepLoader | StreamLoader:
    """What gives this process's share of every step.

    Raises:
        ConfigError: a setting does not go with the kind of dataset
        DataError: the dataset is too small for one step
    """
    options = {
        "batch_size": cfg.batch_size,
        "gradient_accumulation_steps": cfg.gradient_accumulation_steps,
        "rank": world.rank,
        "world_size": world.size,
        "seed": seed,
        "shuffle": cfg.shuffle,
        "collate_fn": collate,
        "num_workers": cfg.num_workers,
        "pin_memory": world.device.type == "cuda" if cfg.pin_memory is None else cfg.pin_memory,
    }
    if cfg.group_by_length:
        _check_grouping(dataset)
    if not is_stream(dataset):
        return StepLoader(dataset, lengths=_lengths(dataset, cfg) if cfg.group_by_length else None, **options)
    if cfg.max_steps is None and cfg.max_steps_per_epoch is None:
        raise ConfigError(
            "how long an epoch of a stream (streaming: True) is cannot be known before; set max_steps, the optimizer "
            "steps of the run, or max_steps_per_epoch"
        )
    return StreamLoader(dataset, **options)


def _check_grouping(dataset: Dataset) -> None:
    packed = isinstance(dataset, PackedDataset) or getattr(dataset, "packed", False)
    if packed or is_stream(dataset):
        why = "packs have one length" if packed else "the lengths in a stream are not known before"
        raise ConfigError(f"group_by_length: True has nothing to group: {why}; set it to False")


def _joined(made: list[Dataset], weights: list[float], stop: str | None) -> Dataset:
    streams = sum(map(is_stream, made))
    if streams not in (0, len(made)):
        raise ConfigError(f"{streams} of the {len(made)} datasets have streaming: True; set it for all or for none")
    if weights:
        mixture = MixtureStream if streams else MixtureDataset
        return mixture(made, weights, stop or "all_exhausted")
    if streams:
        raise ConfigError("several datasets with streaming: True are mixed, not joined; give each a weight")
    return ConcatDataset(made)


def _without_weight(node: Any) -> Any:
    bare = copy.copy(node)  # a copy that still knows the config around it, for ${...}
    bare.pop(_WEIGHT, None)
    return bare


def _lengths(dataset: Dataset, cfg: TrainConfig) -> np.ndarray:
    """Tokens of every sample."""
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([_lengths(each, cfg) for each in dataset.datasets])
    table = getattr(dataset, "table", None)
    return (tokenised(dataset, Preparation(workers=cfg.data_workers)) if table is None else table).lengths
