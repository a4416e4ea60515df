"""Stochastic depth: in training, each layer is skipped for some of the samples."""

import math
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from torchtune.modules.common_utils import slice_str_to_array


class ScaleType(str, Enum):  # noqa: UP042 - a StrEnum prints differently, and configs carry the printed form
    """How the skip probability grows with depth."""

    UNIFORM = "uniform"
    EXP = "exp"
    LINEAR = "linear"
    LOG = "log"
    SIN = "sin"
    SIGMOID = "sigmoid"
    STEP = "step"


class LayerDropout(nn.Module):
    """Calls a function on a random part of its input and lets the rest pass unchanged.

    The survivors are not scaled up, as in LayerSkip (https://arxiv.org/abs/2404.16710).

    Args:
        prob: share of the samples that skip the function.
        dim: the dimension that counts samples.
        disable_on_eval: nothing is skipped in eval mode.
        seed: draws come from a generator of this module's own; None means torch's CPU generator. Layers that are
            recomputed in backward need None: the recomputation restores torch's generator only, and must skip alike.

    Raises:
        ValueError: ``prob`` is no probability.
    """

    def __init__(
        self,
        prob: float = 0.0,
        dim: int | None = 0,
        disable_on_eval: bool | None = True,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= prob <= 1:
            raise ValueError(f"prob is a probability, from 0 to 1, not {prob}")
        self.prob, self.dim, self.disable_on_eval = prob, dim or 0, disable_on_eval
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def forward(self, function: Callable[..., Tensor] | nn.Module, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``function(input, *args, **kwargs)`` for the samples that are kept, ``input`` for the others.

        Args:
            args: with ``kwargs``, passed on; of a tensor with two or more dimensions and one entry per sample, such as
                a mask [B, S, S], only the kept samples' entries.
        """
        if self.prob == 0 or (self.disable_on_eval and not self.training):
            return function(input, *args, **kwargs)
        samples = input.shape[self.dim]
        # Drawn on the CPU, so that every device keeps the same samples and the sizes cost no wait for an accelerator.
        kept = (torch.rand(samples, generator=self.generator, device="cpu") >= self.prob).nonzero().flatten()
        if len(kept) == samples:
            return function(input, *args, **kwargs)
        if len(kept) == 0:
            return input
        kept = kept.to(input.device)

        def of_kept(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.dim() <= max(1, self.dim) or value.shape[self.dim] != samples:
                return value
            return value.index_select(self.dim, kept)

        output = function(of_kept(input), *map(of_kept, args), **{k: of_kept(v) for k, v in kwargs.items()})
        return input.index_copy(self.dim, kept, output.to(input.dtype))

    def extra_repr(self) -> str:
        return f"prob={self.prob}, dim={self.dim}"


class ModuleLayerDropoutWrapper(nn.Module):
    """A layer behind a :class:`LayerDropout`, with the layer's attributes and its parameters under their own names.

    The wrapper shares the layer's tables of parameters, buffers and children; so checkpoints, optimizer states and
    adapters see the same names as without it.
    """

    def __init__(self, module: nn.Module, dropout: LayerDropout) -> None:
        super().__init__()
        for table in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[table] = module.__dict__[table]
        self.__dict__["module"] = module  # not registered as a child: that would put "module." before every name
        self.layer_dropout = dropout

    @property
    def dropout(self) -> LayerDropout:
        """What decides who skips the layer."""
        return self.layer_dropout

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__.get("module"), name)  # absent while being copied

    def train(self, mode: bool = True) -> "ModuleLayerDropoutWrapper":
        """Switch the layer too, which is no child."""
        self.module.training = mode
        return super().train(mode)

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output for the samples that are kept, ``input`` for the others."""
        return self.dropout(self.module, input, *args, **kwargs)


def get_scale(scale_type: ScaleType, scale_period: int, val: int) -> float:
    """Share of the largest probability at depth ``val``; it rises to 1 at ``scale_period`` and stays there.

    Raises:
        ValueError: ``scale_type`` has no curve over depth.
    """
    curves: dict[ScaleType, Callable[[float], float]] = {
        ScaleType.UNIFORM: lambda x: 1.0,
        ScaleType.EXP: lambda x: 2**x - 1,  # LayerSkip, section 4.1
        ScaleType.LINEAR: lambda x: x,  # stochastic depth: https://arxiv.org/abs/1603.09382
        ScaleType.LOG: lambda x: math.log(x * scale_period + 1, scale_period + 1),
        ScaleType.SIN: lambda x: math.sin(math.pi / 2 * x),
        ScaleType.SIGMOID: lambda x: 1 / (1 + math.exp(5 - 10 * x)),
    }
    if scale_type not in curves:
        raise ValueError(f"{scale_type!r} has no curve over depth; choose one of {[t.value for t in curves]}")
    return 1.0 if val >= scale_period else curves[ScaleType(scale_type)](val / scale_period)


def prepare_layer_dropout(
    layers: nn.ModuleList | Iterable[nn.Module],
    prob_max: float = 0.0,
    prob_layer_scale: ScaleType | None = ScaleType.UNIFORM,
    layers_str: str | None = None,
    disable_on_eval: bool | None = True,
) -> None:
    """Put a :class:`LayerDropout` before each layer, in place.

    Args:
        layers: the model's layers, in a container that can be assigned to (``model.layers``).
        prob_max: probability of skipping the deepest layer.
        prob_layer_scale: how the probability grows with depth; None means it does not.
        layers_str: which layers may be skipped, as ``"0,3,5"`` or ``"first:end:step"``; None means all.
    """
    count = len(layers)
    chosen = slice_str_to_array(layers_str or ":", count)
    for i in range(count):
        scale = get_scale(prob_layer_scale or ScaleType.UNIFORM, count - 1, i)
        prob = prob_max * scale if chosen[i] else 0.0
        layers[i] = ModuleLayerDropoutWrapper(layers[i], LayerDropout(prob, disable_on_eval=disable_on_eval))
