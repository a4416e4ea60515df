"""Optimizers as a recipe sees them: one step, one learning rate, and a state that has parameter names."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from torchtune.training.distributed import whole


class InBackward(Optimizer):
    """One optimizer per parameter, stepped as soon as its gradient is complete, so that one gradient lives at a time.

    ``step`` and ``zero_grad`` find nothing left to do. Gradients cannot be accumulated or clipped, as none survives the
    backward pass; the config refuses both.

    Args:
        make: makes an optimizer for a list of parameters.
    """

    def __init__(self, make: Callable[[list[Tensor]], Optimizer], params: Iterable[Tensor]) -> None:
        self.optimizers = {p: make([p]) for p in params}
        first = next(iter(self.optimizers.values()))
        super().__init__(list(self.optimizers), first.defaults)
        for p in self.optimizers:
            p.register_post_accumulate_grad_hook(self._step_one)

    def _step_one(self, p: Tensor) -> None:
        optimizer = self.optimizers[p]
        for group in optimizer.param_groups:  # a schedule writes its rate into our one group
            if isinstance(group["lr"], Tensor):  # torchao's optimizers take no other
                group["lr"].fill_(self.param_groups[0]["lr"])
            else:
                group["lr"] = self.param_groups[0]["lr"]
        optimizer.step()
        p.grad = None

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """State by parameter, as any optimizer has it."""
        return {p: optimizer.state[p] for p, optimizer in getattr(self, "optimizers", {}).items() if optimizer.state}

    @state.setter
    def state(self, value: Mapping[Tensor, dict[str, Any]]) -> None:
        for p, state in value.items():
            self.optimizers[p].state[p] = state

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Nothing is left to do."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing is left to do."""


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The 2-norm over all gradients of all processes, a scalar; zero where there are none."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return whole(get_total_norm(gradients)) if gradients else torch.zeros(())


@torch.no_grad()
def scale_gradients(parameters: Iterable[Tensor], factor: Tensor | float) -> None:
    """Multiply every gradient, in place."""
    for p in parameters:
        if p.grad is not None:
            p.grad.mul_(factor)


class LossScaler:
    """Keeps float16 gradients in range: the loss is multiplied by ``scale``, which grows until something overflows.

    Source: https://arxiv.org/abs/1710.03740, section 3.2; the numbers are those of torch.amp.GradScaler.
    """

    def __init__(self, enabled: bool, scale: float = 65536.0, growth_interval: int = 2000) -> None:
        self.enabled, self.scale = enabled, scale if enabled else 1.0
        self.growth_interval, self.good_steps = growth_interval, 0

    def update(self, finite: bool) -> None:
        """Note whether this step's gradients were finite."""
        if not self.enabled:
            return
        if not finite:
            self.scale, self.good_steps = self.scale / 2, 0
            return
        self.good_steps += 1
        if self.good_steps == self.growth_interval:
            self.scale, self.good_steps = self.scale * 2, 0

    @property
    def exhausted(self) -> bool:
        """True when the scale has fallen so far that the gradients themselves must be infinite."""
        return self.enabled and math.log2(self.scale) < -16

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.scale, self.good_steps = state["scale"], int(state["good_steps"])


def hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What an optimizer keeps per group besides the parameters: learning rate, betas and so on."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
