"""An optimizer that takes its steps during the backward pass."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class OptimizerInBackward(Optimizer):
    """Updates each parameter as soon as its gradient is complete, and frees the gradient; so never all exist at once.

    To everybody else it is one optimizer over all parameters: learning rate schedules change ``param_groups``, and the
    state dict has the form that ``optimizer_cls`` would give. Each backward is a step, so gradients can neither be
    accumulated over several nor clipped by their common norm.

    https://docs.pytorch.org/tutorials/intermediate/optimizer_step_in_backward_tutorial.html

    Args:
        params: all parameters; those that are frozen are left alone.
        optimizer_cls: makes one optimizer for each parameter.
        optimizer_kwargs: passed to it.
    """

    def __init__(self, params: Iterable[nn.Parameter], optimizer_cls: type[Optimizer], **optimizer_kwargs: Any) -> None:
        params = list(params)
        self._steppers = {p: optimizer_cls([p], **optimizer_kwargs) for p in params}
        first = next(iter(self._steppers.values()), None)
        super().__init__(params, {} if first is None else dict(first.defaults))
        for stepper in self._steppers.values():
            self.state.update(stepper.state)  # some make their state at once
        self._share()
        for p in params:
            if p.requires_grad:
                p.register_post_accumulate_grad_hook(self._update)

    def _share(self) -> None:
        """One state and one set of options: what is read or written here is what each parameter's optimizer uses."""
        steppers = list(self._steppers.values())
        for stepper in steppers:
            stepper.state = self.state
        self.param_groups = [_SharedGroup(group, [s.param_groups[0] for s in steppers]) for group in self.param_groups]

    def _update(self, param: nn.Parameter) -> None:
        stepper = self._steppers[param]
        stepper.step()
        stepper.zero_grad()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Does nothing more, as backward has stepped; a closure is called, and its result returned."""
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Does nothing more, as backward has freed the gradients."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state dict of this class, or of a plain ``optimizer_cls`` with one parameter group."""
        super().load_state_dict(state_dict)
        self._share()


class _SharedGroup(dict):
    """A parameter group whose options, when set, are also set in the groups that follow it."""

    def __init__(self, group: dict[str, Any], followers: list[dict[str, Any]]) -> None:
        super().__init__(group)
        self._followers = followers
        for key, value in group.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if key != "params":
            for follower in self._followers:
                follower[key] = value
