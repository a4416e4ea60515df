"""The number formats that a config may name, and whether this machine computes in them."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import nn

from torchtune.errors import ConfigError
from torchtune.utils import get_device_support, get_torch_device_namespace

PRECISION_STR_TO_DTYPE: dict[str, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}


def get_dtype(dtype: str | None = None, device: torch.device | None = None) -> torch.dtype:
    """The dtype that a config's short name stands for; None is fp32.

    Args:
        device: where it will be used; None is this machine's best device.

    Raises:
        ConfigError: the name is unknown, or it is bf16 and the device has no bf16.
    """
    if dtype is None:
        return torch.float32
    if dtype not in PRECISION_STR_TO_DTYPE:
        raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(PRECISION_STR_TO_DTYPE)}")
    on_cpu = device is not None and device.type == "cpu"
    if dtype == "bf16" and not on_cpu and not verify_bf16_support():
        name = get_device_support().device_name
        raise ConfigError(f"dtype is bf16, but this {name} does not compute in bf16; use dtype=fp32, or fp16 on a GPU")
    return PRECISION_STR_TO_DTYPE[dtype]


def verify_bf16_support() -> bool:
    """True when this machine's best device computes in bf16; torch emulates it on CPUs that lack it."""
    kind = get_device_support().device_type
    if kind == "mps":
        # https://developer.apple.com/documentation/metalperformanceshaders/mpsdatatype/bfloat16
        return torch.backends.mps.is_macos_or_newer(14, 0)
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind in ("cpu", "hpu") or get_torch_device_namespace().is_bf16_supported()


@contextmanager
def set_default_dtype(dtype: torch.dtype) -> Generator[None, None, None]:
    """Inside the ``with``, new floating-point tensors have ``dtype``; afterwards they are as before."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def validate_expected_param_dtype(
    named_params: Iterable[tuple[str, nn.Parameter]],
    dtype: torch.dtype,
    exclude_param_names: list[str] | None = None,
) -> None:
    """Check that every parameter has ``dtype``.

    Args:
        exclude_param_names: a parameter is left out when its name contains one of these.

    Raises:
        ConfigError: the first parameter that has another.
    """
    for name, param in named_params:
        if any(part in name for part in exclude_param_names or ()):
            continue
        if param.dtype != dtype:
            raise ConfigError(f"parameter {name} is {param.dtype}, but {dtype} was expected; check the config's dtype")
