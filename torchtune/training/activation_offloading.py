"""Activations that wait for backward in the CPU's memory: copied out after use, back before it is needed."""

import contextlib
import logging
import weakref
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from torchtune.utils import log_rank_zero

logger = logging.getLogger(__name__)


class OffloadActivations(saved_tensors_hooks):
    """Context around forward in which what autograd saves is moved to the CPU until backward; values do not change.

    Parameters, small tensors and tensors that are on the CPU stay where they are.

    Args:
        use_pin_memory: copy into page-locked memory, which is faster and cannot be swapped out.
        use_streams: copy beside the computation, and begin each copy back one tensor ahead of its use.
        max_fwd_stash_size: how many tensors may be on their way out at a time, each still holding device memory.
        min_offload_size: bytes below which a tensor is not worth moving.
    """

    def __init__(
        self,
        use_pin_memory: bool = True,
        use_streams: bool = True,
        max_fwd_stash_size: int = 5,
        min_offload_size: int = 1024,
    ) -> None:
        self._pin, self._use_streams = use_pin_memory, use_streams
        self._stash_size, self._min_bytes = max_fwd_stash_size, min_offload_size
        self._stream: Any = None
        self._leaving: deque[tuple[Tensor, Any]] = deque()
        self._last: weakref.ref[_Offloaded] | None = None
        super().__init__(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> "Tensor | _Offloaded":
        if self._stays(tensor):
            return tensor
        offloaded = _Offloaded(self._copy_out(tensor), tensor.device, self._last)
        self._last = weakref.ref(offloaded)
        return offloaded

    def _stays(self, tensor: Tensor) -> bool:
        return _is_on_cpu(tensor) or tensor.nbytes < self._min_bytes or _is_parameter(tensor)

    def _unpack(self, packed: "Tensor | _Offloaded") -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        # Backward begins: what is still leaving has to arrive first, and then holds no device memory.
        self._let_leave(0)
        tensor = packed.take(self._stream)
        before = packed.before() if packed.before is not None else None
        if before is not None and self._stream is not None:
            before.fetch(self._stream)
        return tensor

    def _copy_out(self, tensor: Tensor) -> Tensor:
        on_cpu = torch.empty_like(tensor, device="cpu", pin_memory=self._pin)
        if not self._use_streams:
            return on_cpu.copy_(tensor, non_blocking=False)
        if self._stream is None:
            self._stream = torch.Stream(tensor.device)
        computing = torch.accelerator.current_stream(tensor.device)
        self._stream.wait_stream(computing)
        with self._stream:
            on_cpu.copy_(tensor, non_blocking=True)
        # The tensor is held here until the copy is done; otherwise its memory could be given away and overwritten.
        self._leaving.append((tensor, self._stream.record_event()))
        self._let_leave(self._stash_size)
        return on_cpu

    def _let_leave(self, how_many_may_stay: int) -> None:
        while len(self._leaving) > how_many_may_stay:
            tensor, copied = self._leaving.popleft()
            torch.accelerator.current_stream(tensor.device).wait_event(copied)


class _Offloaded:
    """A tensor on the CPU, and the way back; ``before`` is the one offloaded just before, which backward needs next."""

    def __init__(self, on_cpu: Tensor, device: torch.device, before: "weakref.ref[_Offloaded] | None") -> None:
        self.on_cpu, self.device, self.before = on_cpu, device, before
        self._coming: Tensor | None = None

    def fetch(self, stream: Any) -> None:
        """Begin to copy back on ``stream``."""
        if self._coming is None:
            with stream:
                self._coming = self.on_cpu.to(self.device, non_blocking=True)

    def take(self, stream: Any) -> Tensor:
        """The tensor on its device, ready for the current stream; with no ``stream`` it is copied now."""
        if stream is None:
            return self.on_cpu.to(self.device)
        self.fetch(stream)
        tensor, self._coming = self._coming, None
        computing = torch.accelerator.current_stream(self.device)
        computing.wait_stream(stream)
        # It was made on the other stream, which must not reuse its memory while this one still reads it.
        tensor.record_stream(computing)
        return tensor


class NoOpManager(saved_tensors_hooks):
    """Context that switches offloading off for a part of forward."""

    def __init__(self) -> None:
        super().__init__(_same, _same)


def get_act_offloading_ctx_manager(
    model: nn.Module, enable_activation_offloading: bool, use_streams: bool = True
) -> OffloadActivations | contextlib.nullcontext:
    """The context for ``model``'s forward: offloading, or nothing when it is not enabled or the model is on the CPU.

    What the output projection saves is left in place, since backward needs it at once.
    """
    if not enable_activation_offloading:
        return contextlib.nullcontext()
    if all(param.device.type == "cpu" for param in model.parameters()):
        log_rank_zero(logger, "Activation offloading has no effect here: the model and its activations are on the CPU.")
        return contextlib.nullcontext()
    output = getattr(getattr(model, "decoder", model), "output", None)
    if isinstance(output, nn.Module):
        _keep_in_place(output)
    return OffloadActivations(use_streams=use_streams)


def _keep_in_place(module: nn.Module) -> None:
    active: list[NoOpManager] = []

    def enter(*_: Any) -> None:
        active.append(NoOpManager())
        active[-1].__enter__()

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(lambda *_: active.pop().__exit__(None, None, None), always_call=True)


def _is_on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _is_parameter(tensor: Tensor) -> bool:
    # A linear layer saves a transposed view of its weight.
    return isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter)


def _same(tensor: Tensor) -> Tensor:
    return tensor
