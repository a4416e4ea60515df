"""Quantization after training: what a config's `quantizer` is, and the models that it and quantised folders give."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchtune import config
from torchtune.errors import CheckpointError, ConfigError
from torchtune.modules import RotaryPositionalEmbeddings
from torchtune.modules.peft import adapter_names
from torchtune.training._torchao import as_json, is_config, quantised, torchao
from torchtune.training.checkpointing import Checkpointer, FullModelHFCheckpointer
from torchtune.training.checkpointing.hf import quantisation_of
from torchtune.training.checkpointing.quantised import QuantisedReader
from torchtune.training.model import meta_init, place_buffers
from torchtune.training.precision import PRECISION_STR_TO_DTYPE

# By class name, so that those of torchao, and those that torchtune has for training, need not be imported.
_MODES = {
    "Int4WeightOnlyQuantizer": "4w",
    "Int4WeightOnlyQATQuantizer": "4w-qat",
    "Int4WeightOnlyQATQuantizerModuleSwap": "4w-qat-module-swap",
    "Int8DynActInt4WeightQuantizer": "8da4w",
    "Int8DynActInt4WeightQATQuantizer": "8da4w-qat",
    "Int8DynActInt4WeightQATQuantizerModuleSwap": "8da4w-qat-module-swap",
    "Int8WeightOnlyQuantizer": "8w",
    "Int8DynActInt8WeightQuantizer": "8da8w",
    "Float8WeightOnlyQuantizer": "f8w",
    "Float8DynActFloat8WeightQuantizer": "f8daf8w",
}
# torchao's configs whose kernels no CPU has (torchao/quantization/quant_api.py).
_NEEDS = {
    "Int4WeightOnlyConfig": "a GPU, and dtype bf16",
    "Float8DynamicActivationFloat8WeightConfig": "a GPU with float8 arithmetic (NVIDIA's from compute capability 8.9)",
    "Float8DynamicActivationInt4WeightConfig": "an NVIDIA GPU and the package mslk",
}


class Quantizer:
    """Quantizes the linear layers of a model with one of torchao's configs; the output projection stays as it is.

    Args:
        torchao_config: gives the config; called when it is needed, since importing torchao takes seconds.
        name: what a folder with such weights is called.
    """

    def __init__(self, torchao_config: Callable[[], Any], name: str | None = None) -> None:
        self.torchao_config, self.name = torchao_config, name or get_quantizer_mode(self)

    def quantize(self, model: nn.Module) -> nn.Module:
        """The model, changed in place: one weight at a time, on the device where it is.

        Raises:
            ConfigError: see :meth:`check`.
            MissingDependency: torchao, or a package with its kernels, is not installed.
        """
        self.check(model, next(model.parameters()).device)
        made = self.torchao_config()
        for name in quantisable(model):
            layer = model.get_submodule(name.removesuffix(".weight"))
            layer.weight = nn.Parameter(quantised(layer.weight.detach(), made), requires_grad=False)
        return model

    def check(self, model: nn.Module, device: torch.device) -> None:
        """Whether this can work, before there are weights; a model on the meta device will do.

        Raises:
            ConfigError: the model has adapters or a layer that the groups do not divide, or the device no kernels.
        """
        if adapter_names(model):
            raise ConfigError(
                "a model with adapters is not quantized: quantize the merged weights, which a run writes beside its "
                "adapters, with the builder of the plain model"
            )
        made = self.torchao_config()
        _check_device(type(made).__name__, device)
        _check_groups(made, {name: model.get_parameter(name).shape[1] for name in quantisable(model)})


class Int4WeightOnlyQuantizer(Quantizer):
    """Weights in 4 bits, packed for the tinygemm kernels of CUDA GPUs. Needs dtype bf16.

    Args:
        groupsize: input channels that share a scale: 32, 64, 128 or 256.
        inner_k_tiles: 8, the only packing that torchao still has.

    Raises:
        ConfigError: another ``inner_k_tiles``.
    """

    def __init__(self, groupsize: int = 128, inner_k_tiles: int = 8) -> None:
        if inner_k_tiles != 8:
            raise ConfigError(f"inner_k_tiles is {inner_k_tiles}, and torchao packs with 8 only; leave it out")
        super().__init__(
            lambda: torchao().Int4WeightOnlyConfig(
                group_size=groupsize, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
            )
        )


class Int8DynActInt4WeightQuantizer(Quantizer):
    """Weights in 4 bits, and activations in 8 bits with a scale per token, found as they come.

    Args:
        groupsize: input channels that share a scale.
    """

    def __init__(self, groupsize: int = 256) -> None:
        super().__init__(
            lambda: torchao().Int8DynamicActivationIntxWeightConfig(
                weight_dtype=torch.int4, weight_granularity=torchao().PerGroup(groupsize)
            )
        )


class Int8WeightOnlyQuantizer(Quantizer):
    """Weights in 8 bits with a scale per output channel."""

    def __init__(self) -> None:
        super().__init__(lambda: torchao().Int8WeightOnlyConfig(set_inductor_config=False))


class Int8DynActInt8WeightQuantizer(Quantizer):
    """Weights in 8 bits with a scale per output channel, and activations in 8 bits with one per token."""

    def __init__(self) -> None:
        super().__init__(lambda: torchao().Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))


class Float8WeightOnlyQuantizer(Quantizer):
    """Weights in float8 (e4m3) with a scale per output channel."""

    def __init__(self) -> None:
        super().__init__(lambda: torchao().Float8WeightOnlyConfig(set_inductor_config=False))


class Float8DynActFloat8WeightQuantizer(Quantizer):
    """Weights and activations in float8 (e4m3), with a scale per output channel and per token."""

    def __init__(self) -> None:
        super().__init__(
            lambda: torchao().Float8DynamicActivationFloat8WeightConfig(
                granularity=torchao().PerRow(), set_inductor_config=False
            )
        )


def get_quantizer_mode(quantizer: Callable[..., Any] | None) -> str | None:
    """Short name of what ``quantizer`` does: "4w" (int4 weights), "8da4w" (and int8 activations), "-qat" for training.

    None when there is no quantizer, or one that is not known.
    """
    return _MODES.get(type(quantizer).__name__)


def make_quantizer(node: Mapping[str, Any]) -> Quantizer:
    """The quantizer of a config: a class of this module, or one of torchao's own configs.

    Raises:
        ConfigError: the component is neither.
        MissingDependency: torchao is not installed.
    """
    torchao()
    made = config.instantiate(node)
    if is_config(made):
        return Quantizer(lambda: made, type(made).__name__.removesuffix("Config"))
    if not isinstance(made, Quantizer):
        raise ConfigError(
            f"quantizer._component_ is {node['_component_']}, which is no quantizer; name a class of "
            "torchtune.training.quantization, or a config of torchao.quantization"
        )
    return made


def quantisable(model: nn.Module) -> list[str]:
    """Names of the weights that are quantized: those of linear layers.

    Not the output projection's: transformers leaves it as it is, and where it is the embedding it has to stay.
    """
    output = getattr(model, "output", None)
    linear = (n for n, layer in model.named_modules() if type(layer) is nn.Linear and layer is not output)
    return [f"{name}.weight" for name in linear]


def is_quantised(checkpointer: Checkpointer) -> bool:
    """Whether the weights of a folder were quantised with torchao."""
    return isinstance(checkpointer, FullModelHFCheckpointer) and quantisation_of(checkpointer.config) == "torchao"


def load_quantised(
    build: Callable[[], nn.Module],
    checkpointer: FullModelHFCheckpointer,
    device: torch.device,
    dtype: torch.dtype,
    quantizer: Quantizer | None = None,
) -> nn.Module:
    """The model with the weights of a quantised folder, each read to the device as it lies in the files.

    Args:
        dtype: of what is not quantised and of the results; that of the folder.
        quantizer: what a config says that the folder was made with; None believes the folder.

    Raises:
        ConfigError: the quantizer or the dtype is another, the device has no kernels, or the model has adapters.
        CheckpointError: the weights are not those of the model.
    """
    kind, arguments = _made_with(checkpointer)
    if quantizer is not None and (kind, arguments) != _meaning(as_json(quantizer.torchao_config())):
        raise ConfigError(
            f"the weights in {checkpointer.checkpoint_dir} are quantised with {kind} {arguments}, and quantizer asks "
            "for something else; set quantizer: null, which takes what the folder has"
        )
    _check_device(kind, device)
    source = QuantisedReader(checkpointer)
    with meta_init(dtype):
        model = build().requires_grad_(False)
    if adapter_names(model):
        raise ConfigError("a quantised model has no adapters; use the builder of the plain model")
    state = {name: _placed(tensor, device, dtype) for name, tensor in source.weights(model.state_dict())}
    model.load_state_dict(state, assign=True)
    place_buffers(model, device)
    if source.family.hf.rotary:
        _pair_as_in_files(model)
    return model


def _placed(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    if type(tensor) is Tensor:
        return tensor.to(device, dtype)
    if tensor.dtype != dtype:  # its scales would have to be rounded
        names = {one: name for name, one in PRECISION_STR_TO_DTYPE.items()}
        raise ConfigError(f"the weights were quantised in another dtype; set dtype: {names[tensor.dtype]}")
    return tensor.to(device)


def _made_with(checkpointer: FullModelHFCheckpointer) -> tuple[str, dict[str, Any]]:
    try:
        return _meaning(checkpointer.config["quantization_config"]["quant_type"]["default"])
    except (KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(
            f"{checkpointer.checkpoint_dir / 'config.json'} does not say in quantization_config.quant_type how the "
            "weights were quantised, as transformers 5 does; make the folder anew with `tune run quantize`"
        ) from e


def _meaning(about: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class and the arguments of a config that torchao wrote as JSON, without what is for compilers alone."""
    return about["_type"], {key: value for key, value in about["_data"].items() if key != "set_inductor_config"}


def _pair_as_in_files(model: nn.Module) -> None:
    """RoPE turns the channels that are pairs in transformers' order, which quantised rows keep."""
    for module in model.modules():
        if isinstance(module, RotaryPositionalEmbeddings):
            module.interleaved = False


def _check_device(kind: str, device: torch.device) -> None:
    if device.type == "cpu" and kind in _NEEDS:
        raise ConfigError(
            f"torchao's {kind} needs {_NEEDS[kind]}, and device is cpu. On any device work Int8WeightOnlyQuantizer, "
            "Int8DynActInt8WeightQuantizer, Int8DynActInt4WeightQuantizer and Float8WeightOnlyQuantizer."
        )


def _check_groups(made: Any, channels: Mapping[str, int]) -> None:
    granularity = getattr(made, "weight_granularity", None) or getattr(made, "granularity", None)
    size = getattr(made, "group_size", None) or getattr(granularity, "group_size", None)
    unfit = [name for name, count in channels.items() if size and count % size]
    if unfit:
        largest = math.gcd(256, *channels.values())
        raise ConfigError(
            f"groups of {size} do not divide the {channels[unfit[0]]} input channels of {unfit[0]} ({len(unfit)} of "
            f"{len(channels)} layers); take groups of {largest} (quantizer.groupsize) or of a part of that"
        )
