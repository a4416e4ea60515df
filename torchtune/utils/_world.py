"""Which process this is among how many, and which torch it runs on; torch is loaded only when it is needed."""

import os
import re
import sys


def get_world_size_and_rank() -> tuple[int, int]:
    """Number of processes and this one's number; ``(1, 0)`` while there is no process group."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 1, 0
    return distributed.get_world_size(), distributed.get_rank()


def is_rank_zero() -> bool:
    """True in the process that speaks and writes for all; torchrun's ``RANK`` decides until there is a group."""
    world_size, rank = get_world_size_and_rank()
    return (rank if world_size > 1 else int(os.environ.get("RANK", "0"))) == 0


def torch_version_ge(version: str) -> bool:
    """True when the installed torch is at least ``version``; a nightly build counts as the release that it leads to."""
    import torch

    installed, wanted = _release(torch.__version__), _release(version)
    length = max(len(installed), len(wanted))
    return installed + (0,) * (length - len(installed)) >= wanted + (0,) * (length - len(wanted))


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    if numbers is None:
        raise ValueError(f"a version such as '2.11.0' was expected, not {version!r}")
    return tuple(int(number) for number in numbers.group().split("."))
