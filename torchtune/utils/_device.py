"""Which accelerator this machine has, which one of them is this process's, and how a batch gets there."""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, Any

from torchtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch


class DeviceSupport(Enum):
    """Kinds of device: torch's name, a name for people, and the backend that joins several.

    Backends: https://docs.pytorch.org/docs/stable/distributed.html#backends
    """

    CPU = ("cpu", "CPU", "gloo")
    CUDA = ("cuda", "GPU", "nccl")
    NPU = ("npu", "NPU", "hccl")
    XPU = ("xpu", "XPU", "ccl")
    MPS = ("mps", "MPS", "gloo")
    HPU = ("hpu", "HPU", "hccl")

    def __init__(self, device_type: str, device_name: str, communication_backend: str) -> None:
        self.device_type, self.device_name = device_type, device_name
        self.communication_backend = communication_backend

    @staticmethod
    def from_type(device_type: str) -> DeviceSupport:
        """The member with torch's name ``device_type``.

        Raises:
            ConfigError: there is none.
        """
        for member in DeviceSupport:
            if member.device_type == device_type:
                return member
        known = ", ".join(member.device_type for member in DeviceSupport)
        raise ConfigError(f"device {device_type!r} is not known; use one of {known}, or leave it out to take the best")


# MPS comes last among accelerators and only when nothing else is there; its memory is shared with the CPU.
_PREFERENCE = (DeviceSupport.CUDA, DeviceSupport.NPU, DeviceSupport.XPU, DeviceSupport.HPU, DeviceSupport.MPS)


def get_device_support() -> DeviceSupport:
    """The kind of the best device of this machine: an accelerator, otherwise the CPU."""
    return next((kind for kind in _PREFERENCE if _is_available(kind)), DeviceSupport.CPU)


def get_device(device: str | None = None) -> torch.device:
    """The device of this process, made torch's current one.

    Under torchrun each process of a machine takes the accelerator with the number ``LOCAL_RANK``.

    Args:
        device: such as "cuda", "cuda:1" or "cpu"; None takes the best kind this machine has.

    Raises:
        ConfigError: the device is unknown, absent, or has another number than ``LOCAL_RANK`` wants.
    """
    import torch

    name, _, number = (device or get_device_support().device_type).partition(":")
    kind = DeviceSupport.from_type(name)
    if kind is DeviceSupport.CPU:
        return torch.device("cpu")
    if not _is_available(kind):
        raise ConfigError(
            f"device is {name!r}, but torch finds no {kind.device_name} here; "
            "use device=cpu, or install a torch that is built for it"
        )
    if kind is DeviceSupport.MPS:
        return torch.device("mps")
    index = _index(name, number)
    namespace = _namespace(name)
    if not 0 <= index < namespace.device_count():
        raise ConfigError(
            f"{name}:{index} was asked for, but this machine has {namespace.device_count()} {name} device(s)"
        )
    namespace.set_device(index)
    return torch.device(name, index)


def get_torch_device_namespace() -> Any:
    """torch's module for the best device of this machine, such as ``torch.cuda``."""
    return _namespace(get_device_support().device_type)


def batch_to_device(batch: dict, device: torch.device) -> None:
    """Move every tensor of ``batch``, and all else that has ``to``, to ``device``, in place; dicts inside it too.

    Raises:
        DataError: a value cannot be moved.
    """
    for key, value in batch.items():
        if isinstance(value, dict):
            batch_to_device(value, device)
        elif hasattr(value, "to"):
            batch[key] = value.to(device)
        else:
            raise DataError(
                f"batch[{key!r}] is {type(value).__name__}; only tensors, masks and dicts of them can be moved"
            )


def _is_available(kind: DeviceSupport) -> bool:
    import torch

    if kind is DeviceSupport.MPS:
        return torch.backends.mps.is_available()
    namespace = getattr(torch, kind.device_type, None)
    return namespace is not None and namespace.is_available()


def _namespace(device_type: str) -> Any:
    import torch

    return getattr(torch, device_type)


def _index(name: str, number: str) -> int:
    local_rank = os.environ.get("LOCAL_RANK")
    if number and not number.isdecimal():
        raise ConfigError(f"device {name}:{number} has no number after the colon; write for example {name}:0")
    if local_rank is None:
        return int(number or 0)
    if number and number != local_rank:
        raise ConfigError(
            f"device is {name}:{number}, but this process was started with LOCAL_RANK={local_rank}; "
            f"write device={name}, so that each process takes its own"
        )
    return int(local_rank)
