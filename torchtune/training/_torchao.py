"""The one place that imports torchao, which is optional and takes seconds."""

import json
import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchtune.errors import ConfigError, MissingDependency
from torchtune.training.distributed import local_rows

# What torchao and its kernels raise for a tensor, a device or a number that they are not made for.
_REFUSALS = (AssertionError, RuntimeError, TypeError, ValueError)
_NAME, _PREFIX = "layer.weight", "layer._weight_"  # torchao puts a tensor's name into those of its parts


def torchao() -> ModuleType:
    """``torchao.quantization``.

    Raises:
        MissingDependency: torchao is not installed, or does not go with this torch.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns of kernels for GPUs that are not there
    try:
        import torchao.prototype.safetensors.safetensors_support
        import torchao.quantization
    except ImportError as e:
        raise MissingDependency(f"quantization needs torchao: pip install 'torchao>=0.18' ({e})") from e
    finally:
        logging.disable(before)
    return torchao.quantization


def is_config(value: Any) -> bool:
    """Whether a value is one of torchao's quantization configs."""
    torchao()
    from torchao.core.config import AOBaseConfig

    return isinstance(value, AOBaseConfig)


def as_json(config: Any) -> dict[str, Any]:
    """A quantization config as plain values, in the form in which transformers stores it."""
    from torchao.core.config import config_to_dict

    return config_to_dict(config)


def quantised(weight: Tensor, config: Any) -> Tensor:
    """The weight of a linear layer as torchao's ``quantize_`` makes it.

    Raises:
        ConfigError: torchao does not quantise such a weight so, or not on its device.
        MissingDependency: a package with the kernels is absent.
    """
    with torch.device("meta"):
        layer = nn.Linear(*reversed(weight.shape), bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    what = (
        f"torchao cannot quantise a weight {list(weight.shape)} of {weight.dtype} on {weight.device.type} with {config}"
    )
    try:
        torchao().quantize_(layer, config)
    except ImportError as e:
        raise MissingDependency(f"{what}: {e}") from e
    except torch.OutOfMemoryError:
        raise
    except _REFUSALS as e:
        raise ConfigError(f"{what}: {e}") from e
    if type(layer.weight.data) is Tensor:  # some kinds leave a weight alone that they do not fit
        raise ConfigError(f"{what}: the weight would stay as it is")
    return layer.weight.detach()


def take_apart(tensor: Tensor) -> tuple[dict[str, Tensor], str]:
    """The plain tensors that a quantised one is made of, by torchao's names of them, and the rest of it as text."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    parts, texts = flatten_tensor_state_dict({_NAME: tensor})
    return {name.removeprefix(_PREFIX): part for name, part in parts.items()}, texts[_NAME]


def put_together(parts: Mapping[str, Tensor], text: str) -> Tensor:
    """The quantised tensor that :func:`take_apart` took apart. Nothing is made but the tensor types torchao lists.

    Raises:
        ValueError: these are not the parts and the text of such a tensor.
    """
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    named = {f"{_PREFIX}{part}": tensor for part, tensor in parts.items()}
    try:
        made, _ = unflatten_tensor_state_dict(named, {"tensor_names": json.dumps([_NAME]), _NAME: text})
        return made[_NAME]
    except (*_REFUSALS, AttributeError, LookupError) as e:
        raise ValueError(f"torchao makes no tensor of {', '.join(parts)} and {text[:200]}: {e}") from e


def empty_state(optimizer: Optimizer, parameter: Tensor, slot: str) -> Tensor:
    """What one of torchao's optimizers would keep of a parameter in a slot before its first step.

    Raises:
        ConfigError: this is none of torchao's optimizers, or it keeps another kind of state.
    """
    make = getattr(optimizer, "_new_buffer", None)
    made = None if make is None else make(parameter, slot == "exp_avg")  # only the average itself has a sign
    if made is None or type(local_rows(made)[0]) is Tensor:
        raise ConfigError(
            f"the checkpoint's optimizer keeps {slot} in few bits, and this run's, {type(optimizer).__name__}, does "
            "not; resume with the optimizer of the first run"
        )
    return made
