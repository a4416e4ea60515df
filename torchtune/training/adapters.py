"""A model's adapters over a run: how they start, and how they and their base become files."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from torchtune.errors import CheckpointError
from torchtune.modules.low_precision.nf4 import dequantize_nf4, is_quantised, nf4_of, quantize_nf4
from torchtune.modules.peft import (
    DoRALinear,
    adapted_layers,
    adapter_names,
    adapter_spec,
    initial_adapters,
    merged_weight,
)
from torchtune.training.checkpointing import Checkpointer, check_adapter
from torchtune.training.distributed import whole
from torchtune.training.model import fill

logger = logging.getLogger(__name__)

_SAMPLES = 64  # values of a tensor that its fingerprint sees; training changes nearly all of them


class BaseLost(CheckpointError):
    """The files of a base are not what the run began with."""


class BaseWeights:
    """The weights below a model's adapters: read at the start, and again whenever they are merged.

    Args:
        source: reads them.

    Attributes:
        saved_as: shape and dtype of each tensor in its file, in the order in which they are read.
    """

    def __init__(self, source: Checkpointer) -> None:
        self._source = source
        self.saved_as: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        self._native: dict[str, Tensor] = {}
        self._digests: dict[str, bytes] = {}

    def weights(self, native: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Each tensor once, as the checkpointer's ``weights`` gives it; ``native`` is remembered."""
        self._native = {name: tensor.to("meta") for name, tensor in native.items()}
        for name, tensor in self._source.weights(native):
            self._digests[name], self.saved_as[name] = _digest(tensor), (tuple(tensor.shape), tensor.dtype)
            yield name, tensor
            del tensor

    def again(self) -> Iterator[tuple[str, Tensor]]:
        """The same tensors once more.

        Raises:
            BaseLost: a file is gone, or its contents are others than they were.
        """
        try:
            for name, tensor in self._source.weights(self._native):
                if _digest(tensor) != self._digests[name]:
                    raise BaseLost(f"{name} in {self._source.checkpoint_dir} has changed since the run began")
                yield name, tensor
                del tensor
        except (CheckpointError, OSError) as e:
            raise BaseLost(f"the base model that the run began with cannot be read again: {e}") from e

    @property
    def fingerprint(self) -> str:
        """Tells these weights from others; the same for every format and dtype that they are kept in."""
        found = hashlib.sha256()
        for name in sorted(self._digests):
            found.update(name.encode() + self._digests[name])
        return found.hexdigest()


def _digest(tensor: Tensor) -> bytes:
    values = tensor.reshape(-1)
    seen = values[:: max(1, len(values) // _SAMPLES)][:_SAMPLES].float()
    return hashlib.sha256(str(tuple(tensor.shape)).encode() + seen.numpy().tobytes()).digest()


def start_adapters(model: nn.Module, seed: int) -> None:
    """Give fresh adapters their first values, which make the model equal its base."""
    fill(model, initial_adapters(model, torch.Generator().manual_seed(seed)))
    for layer in adapted_layers(model).values():
        if isinstance(layer, DoRALinear):
            layer.initialize_dora_magnitude()


def load_adapters(model: nn.Module, checkpointer: Checkpointer, source: str | Path, base: BaseWeights) -> None:
    """Fill a model's adapters from a file or folder, once its base is loaded.

    Args:
        source: see the checkpointers' ``adapter``.

    Raises:
        CheckpointError: there is no adapter, or it is one of another model or another base.
    """
    loaded = checkpointer.adapter(source, head_dim=model.head_dim)
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameters[name].shape) for name in adapter_names(model)}
    spec = adapter_spec(model)
    check_adapter(loaded, spec, shapes, base.fingerprint)
    if loaded.spec and loaded.spec.dropout != spec.dropout:
        logger.warning(
            "lora_dropout is %s here, and was %s when %s was trained.", spec.dropout, loaded.spec.dropout, loaded.path
        )
    fill(model, loaded.tensors.items())
    logger.info("Adapters are read from %s.", loaded.path)


def describe_adapters(model: nn.Module) -> str:
    """What is trained of a model with adapters, in one sentence."""
    spec = adapter_spec(model)
    ranks = sorted(set(spec.ranks.values()))
    rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    quantised = any(map(is_quantised, model.modules()))
    parameters = [(p.numel() * (1 + (p.dtype == torch.uint8)), p) for p in model.parameters() if p.dtype != torch.int8]
    trained, total = (sum(n for n, p in parameters if p.requires_grad), sum(n for n, _ in parameters))
    return (
        f"{'DoRA' if spec.use_dora else 'LoRA'} adapters of rank {rank} on {len(spec.ranks)} layers"
        f"{', over weights in 4 bits' if quantised else ''}: {trained:,} of {total:,} parameters are trained "
        f"({100 * trained / total:.2f} %)."
    )


def whole_adapters(model: nn.Module) -> dict[str, Tensor]:
    """All that an adapter file holds of a model, whole and on the CPU; a collective, so every process must call it."""
    parameters = dict(model.named_parameters())
    return {name: whole(parameters[name].detach()).cpu() for name in adapter_names(model)}


def merged(
    model: nn.Module, base: Iterable[tuple[str, Tensor]], adapters: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The weights of a plain model that computes what ``model`` does, one at a time and in the dtypes of ``base``.

    A weight that the model keeps in 4 bits is merged as the model sees it, with its rounding.

    Args:
        base: the tensors that the model was filled with.
        adapters: see :func:`whole_adapters`.
    """
    layers = adapted_layers(model)
    for name, tensor in base:
        owner, _, leaf = name.rpartition(".")
        if name in adapters:  # trained in full
            yield name, adapters[name].to(tensor.dtype)
            continue
        weight = _as_kept(model.get_submodule(owner), leaf, tensor)
        if owner in layers and leaf in layers[owner].adapted:
            parts = (f"{owner}.{part}" for part in (*layers[owner].adapted[leaf], "magnitude"))
            a, b, magnitude = (adapters[p].to(weight.device) if p in adapters else None for p in parts)
            weight = merged_weight(weight, a, b, layers[owner].scaling, magnitude)
        yield name, weight.to(tensor.dtype)


def _as_kept(module: nn.Module, leaf: str, tensor: Tensor) -> Tensor:
    """A tensor of the base as its module computes with it."""
    if not is_quantised(module, leaf):
        return tensor
    kept = nf4_of(module, leaf)
    weight = tensor.to(kept.codes.device, kept.scale_mean.dtype)
    return dequantize_nf4(quantize_nf4(weight, kept.block_size, kept.scaler_block_size))
