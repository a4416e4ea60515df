"""Multiplying gradients in place."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def scale_grads(model: nn.Module, scaler: Tensor) -> None:
    """Multiply every gradient of ``model`` by ``scaler``, in place."""
    scale_grads_(model.parameters(), scaler)


def scale_grads_(parameters: Tensor | Iterable[Tensor], scaler: Tensor, foreach: bool | None = None) -> None:
    """Multiply the gradients of ``parameters`` by ``scaler``, in place; parameters without one are passed over.

    Args:
        foreach: multiply all of a device and dtype in one call; None does so where torch has fast kernels for it.
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    grouped: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for grad in (param.grad for param in parameters if param.grad is not None):
        grouped.setdefault((grad.device, grad.dtype), []).append(grad)
    for (device, _), grads in grouped.items():
        factor = scaler.to(device)
        if device.type != "cpu" if foreach is None else foreach:
            torch._foreach_mul_(grads, factor)
        else:
            for grad in grads:
                grad.mul_(factor)
