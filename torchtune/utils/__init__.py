"""Helpers that know no model, data or config: devices, logging, versions. Importing it does not load torch."""

from torchtune.utils._device import (
    DeviceSupport,
    batch_to_device,
    get_device,
    get_device_support,
    get_torch_device_namespace,
)
from torchtune.utils._logging import deprecated, get_logger, log_once, log_rank_zero
from torchtune.utils._world import get_world_size_and_rank, torch_version_ge

__all__ = [
    "DeviceSupport",
    "batch_to_device",
    "deprecated",
    "get_device",
    "get_device_support",
    "get_logger",
    "get_torch_device_namespace",
    "get_world_size_and_rank",
    "log_once",
    "log_rank_zero",
    "torch_version_ge",
]
