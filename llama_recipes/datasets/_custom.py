"""A dataset that a function in a file of the user's makes."""

from collections.abc import Callable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from llama_recipes.configs.datasets import custom_dataset as Settings
from torchtune.config._allow import FLAG, extra_allowed, within
from torchtune.datasets import PackedDataset
from torchtune.datasets._packed_stream import pack_to_fit
from torchtune.errors import ConfigError, DataError, MissingDependency

DEFAULT_FUNCTION = "get_custom_dataset"
_BUILDER = "llama_recipes.datasets.custom_dataset"


class _NoFunction(ConfigError, AttributeError):
    """Also what Python raises for a name that a module lacks: callers of ``llama_recipes`` catch that."""


class _NoFile(ConfigError, FileNotFoundError):
    """Also what Python raises for a file that is not there, for the same reason."""


for _kind in (_NoFunction, _NoFile):
    _kind.__name__ = ConfigError.__name__  # what the user reads before the message


class CustomDataset(Dataset):
    """What a user's function gave, as samples of ours.

    Args:
        made: samples with ``input_ids`` and ``labels`` of equal length, not shifted, as lists or arrays; where
            ``attention_mask`` is 0 there is padding, which is left out
        name: of the function, for messages

    Raises:
        ConfigError: it has no length or no samples by number
    """

    def __init__(self, made: Any, name: str) -> None:
        if not (hasattr(made, "__len__") and hasattr(made, "__getitem__")):
            raise ConfigError(f"{name} gave a {type(made).__name__}; expected samples by number, with a length")
        self._made, self._name = made, name

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        sample = self._made[index]
        if not isinstance(sample, Mapping) or not {"input_ids", "labels"} <= sample.keys():
            found = list(sample) if isinstance(sample, Mapping) else type(sample).__name__
            raise DataError(f"{self.where(index)}: expected input_ids and labels, found {found}")
        names = [name for name in ("input_ids", "labels", "attention_mask") if name in sample]
        arrays = [np.asarray(sample[name]) for name in names]
        if any(array.ndim != 1 or len(array) != len(arrays[0]) for array in arrays):
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in zip(names, arrays))
            raise DataError(f"{self.where(index)}: expected lists of one length, found {shapes}")
        kept = arrays[2].astype(bool) if len(arrays) > 2 else slice(None)
        return {"tokens": arrays[0][kept].tolist(), "labels": arrays[1][kept].tolist()}

    def where(self, index: int) -> str:
        """Which sample, for messages."""
        return f"{self._name}, sample {index + 1}"


def custom_dataset(
    tokenizer: Any,
    *,
    file: str,
    split: str = "train",
    tokenizer_name: str | None = None,
    packed: bool | str = False,
    split_across_pack: bool = False,
    **settings: Any,
) -> CustomDataset | PackedDataset:
    """The dataset of a function of yours, as a config names it.

    Args:
        file: ``my_dataset.py`` or ``my_dataset.py:my_function``, in the current folder or below it. The function takes
            settings, a tokenizer and the name of a split; without a name it is ``get_custom_dataset``
        split: which part; the function knows what it means
        tokenizer_name: a folder or a name on the Hub, whose tokenizer the function gets from `transformers`; None:
            the config's own tokenizer
        packed, split_across_pack: see :func:`samsum_dataset`
        settings: attributes of what the function gets first, beside ``file``, ``train_split`` and ``test_split``

    Raises:
        ConfigError: there is no such file, function or tokenizer, or the file is outside the current folder
        MissingDependency: ``tokenizer_name`` is given and `transformers` is not installed
    """
    path, _ = split_name(file)
    if not path.resolve().is_relative_to(Path.cwd()) and not within(_BUILDER, extra_allowed()):
        raise ConfigError(
            f"dataset.file is {file}, outside the current folder, and a config from elsewhere must not choose which "
            f"code is run; start from that file's folder, or allow it: {FLAG} {_BUILDER}"
        )
    config = Settings(file=file)
    vars(config).update(settings)
    given = tokenizer if tokenizer_name is None else _from_transformers(tokenizer_name)
    made = get_custom_dataset(config, given, split)
    return pack_to_fit(CustomDataset(made, file), tokenizer, packed, split_across_pack=split_across_pack)


def get_custom_dataset(dataset_config: Any, tokenizer: Any, split: str) -> Any:
    """What the function that ``dataset_config.file`` names gives for a split.

    Raises:
        ConfigError: there is no such file or no such function in it
    """
    path, name = split_name(dataset_config.file)
    return _function(path, name)(dataset_config, tokenizer, split)


def split_name(file: str) -> tuple[Path, str]:
    """``my_dataset.py:my_function`` as a path and a name.

    Raises:
        ConfigError: it is no Python file
    """
    before, colon, after = file.rpartition(":")
    path, name = (before, after) if colon and before.endswith(".py") else (file, DEFAULT_FUNCTION)
    if not path.endswith(".py"):
        raise ConfigError(f"Dataset file {path} is not a .py file.")
    return Path(path).expanduser(), name


def _function(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise _NoFile(f"Dataset py file {path} does not exist or is not a file.")
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(found := getattr(module, name, None)):
        there = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == path.stem]
        raise _NoFunction(
            f"{path} has no function {name}; it has {', '.join(there) or 'none'}. Another is named as "
            f"{path}:its_name, and takes (dataset_config, tokenizer, split)"
        )
    return found


def _from_transformers(name: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependency(
            "dataset.tokenizer_name: the function gets a tokenizer of transformers, which is not installed: "
            "pip install transformers"
        ) from error
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise ConfigError(f"dataset.tokenizer_name: transformers reads no tokenizer from {name}: {why}") from error
