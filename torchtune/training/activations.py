"""Activations that are not kept for backward but computed again: of whole layers, or of all but costly operations."""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from torchtune.errors import ConfigError

_MATMULS = ("aten.mm.default", "aten.addmm.default", "torchtune.grouped_mm.default")
# Attention kernels and what was communicated are slow to repeat for the memory that they hold.
_COSTLY = ("_scaled_dot_product_", "reduce_scatter_tensor", "flex_attention")


def apply_selective_activation_checkpointing(model: nn.Module, ac_mode: str, ac_option: int | str | None) -> None:
    """Make layers of ``model.layers`` run again in backward; no parameter's name changes.

    Args:
        ac_mode: "full" for every layer, "selective" for what ``ac_option`` says.
        ac_option: n for every n-th layer; "op" for every layer, keeping attention and every second matrix product.

    Raises:
        ConfigError: anything else.
    """
    every = _every(ac_mode, ac_option)
    for number, layer in enumerate(model.layers, start=1):
        if number % every == 0:
            checkpoint_wrapper(layer, ac_mode, ac_option)


def checkpoint_wrapper(module: nn.Module, ac_mode: str, ac_style: int | str | None) -> nn.Module:
    """``module`` itself, changed to run again in backward; ``("selective", "op")`` keeps costly results."""
    by_operation = ac_mode == "selective" and ac_style == "op"
    return recompute_in_backward(module, **({"context_fn": keep_costly_operations} if by_operation else {}))


def recompute_in_backward(module: nn.Module, **kwargs: Any) -> nn.Module:
    """``module`` itself, changed to keep only its inputs in forward and to run again in backward.

    Its ``forward`` is replaced rather than the module wrapped, so that the names of its parameters stay.

    Args:
        kwargs: for :func:`torch.utils.checkpoint.checkpoint`.
    """
    forward = module.forward.__func__

    # A method, so that a copy of the module calls its own; a partial function torch.compile would pass over.
    def recomputed(self: nn.Module, *args: Any, **inputs: Any) -> Any:
        return checkpoint(partial(forward, self), *args, **{"use_reentrant": False, **kwargs}, **inputs)

    module.forward = MethodType(recomputed, module)
    return module


def keep_costly_operations() -> tuple[Any, Any]:
    """Contexts of a forward and its repetition that keep attention and every second matrix product."""
    return create_selective_checkpoint_contexts(_policy())


def _policy() -> Callable[..., CheckpointPolicy]:
    # Forward and repetition see the same operations in the same order, so each counts on its own.
    seen = {False: 0, True: 0}

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        keep = any(part in str(operation) for part in _COSTLY)
        if str(operation) in _MATMULS:
            seen[context.is_recompute] += 1
            keep = seen[context.is_recompute] % 2 == 1
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    return policy


def _every(ac_mode: str, ac_option: int | str | None) -> int:
    if ac_mode == "full" or (ac_mode, ac_option) == ("selective", "op"):
        return 1
    if ac_mode != "selective":
        raise ConfigError(f"ac_mode is {ac_mode!r}; use 'full' or 'selective'")
    if not str(ac_option).isdecimal() or int(ac_option) == 0:
        raise ConfigError(f"ac_option is {ac_option!r}; with ac_mode=selective use 'op', or n for every n-th layer")
    return int(ac_option)
