"""Learning rates over a run: schedules by step, and what the rate is now."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torchtune.errors import ConfigError
from torchtune.training.memory import OptimizerInBackwardWrapper


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Rises in a line from 0 to the optimizer's rate, then falls along a cosine.

    Cosine annealing: https://arxiv.org/abs/1608.03983, equation 5.

    Args:
        num_training_steps: steps of the whole run, the warm-up included.
        num_cycles: waves between the end of the warm-up and the end of the run; 0.5 falls once, to 0.
        last_epoch: number of the last step taken, to go on from; -1 starts.
    """

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return step / max(1, num_warmup_steps)
        progress = (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)
        return max(0.0, 0.5 * (1.0 + math.cos(2.0 * math.pi * num_cycles * progress)))

    return LambdaLR(optimizer, factor, last_epoch)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Rises in a line from 0 to the optimizer's rate, then falls in a line to 0 at ``num_training_steps``.

    Args:
        last_epoch: number of the last step taken, to go on from; -1 starts.
    """

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return step / max(1, num_warmup_steps)
        return max(0.0, (num_training_steps - step) / max(1, num_training_steps - num_warmup_steps))

    return LambdaLR(optimizer, factor, last_epoch)


def get_constant_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int | None = None, last_epoch: int = -1
) -> LambdaLR:
    """Rises in a line from 0 to the optimizer's rate and stays there.

    Args:
        num_training_steps: not needed; accepted because a recipe gives it to every schedule.
        last_epoch: number of the last step taken, to go on from; -1 starts.
    """
    return LambdaLR(optimizer, lambda step: min(1.0, step / num_warmup_steps) if num_warmup_steps else 1.0, last_epoch)


def get_lr(optimizer: Optimizer | OptimizerInBackwardWrapper) -> float:
    """The learning rate that all parameter groups have now.

    Raises:
        ConfigError: the groups have different rates, so that there is no one answer.
    """
    if isinstance(optimizer, OptimizerInBackwardWrapper):
        groups = [group for each in optimizer.optim_map.values() for group in each.param_groups]
    else:
        groups = optimizer.param_groups
    rates = {group["lr"] for group in groups}
    if len(rates) != 1:
        raise ConfigError(f"the parameter groups have different learning rates: {sorted(rates)}")
    return rates.pop()
