"""From a configured loss to one that is summed over target tokens."""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.errors import ConfigError
from torchtune.modules.loss import CEWithChunkedOutputLoss, LinearCrossEntropyLoss, SFTLoss

IGNORE = -100

Batch = Mapping[str, Tensor]


def next_token_labels(batch: Batch) -> Tensor:
    """Labels moved one place left, [B, S]: at each position the token that follows, or -100 where it does not count."""
    return F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)


def count_targets(batch: Batch) -> Tensor:
    """How much a micro-batch counts in the mean: its target tokens, a scalar."""
    return (batch["labels"][:, 1:] != IGNORE).sum()


def summed_loss(loss: nn.Module, model: nn.Module) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss as ``(model, batch) -> sum over target tokens``.

    Plain cross-entropies, whichever class they come as, have one value; they are computed by
    :func:`torchtune.modules.loss.linear_cross_entropy`, which needs the least memory. Others get float32 logits.

    Args:
        model: told whether to return hidden states, pieces of logits, or logits.

    Raises:
        ConfigError: the loss does not average over target tokens, so its sum is not known.
    """
    if _is_plain_cross_entropy(loss):
        loss = LinearCrossEntropyLoss(ignore_index=loss.ignore_index)
    if isinstance(loss, LinearCrossEntropyLoss):
        loss.set_model_output(model)
        return lambda model, batch: loss.total(_run(model, batch), next_token_labels(batch))
    if getattr(loss, "reduction", "mean") != "mean":
        raise ConfigError(f"loss.reduction is {loss.reduction!r}; training needs 'mean', as it divides by token counts")
    if isinstance(loss, SFTLoss):
        loss.set_model_output(model)
        return lambda model, batch: loss(_run(model, batch), next_token_labels(batch)) * count_targets(batch)
    if hasattr(loss, "num_output_chunks"):
        model.set_num_output_chunks(loss.num_output_chunks)
        return lambda model, batch: loss(_run(model, batch), next_token_labels(batch)) * count_targets(batch)

    def from_logits(model: nn.Module, batch: Batch) -> Tensor:
        logits = _run(model, batch)
        return loss(logits.flatten(0, 1), next_token_labels(batch).flatten()) * count_targets(batch)

    return from_logits


def _is_plain_cross_entropy(loss: nn.Module) -> bool:
    if type(loss) is nn.CrossEntropyLoss:
        return loss.weight is None and loss.label_smoothing == 0 and loss.reduction == "mean"
    return type(loss) is CEWithChunkedOutputLoss


def _run(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch["tokens"], mask=batch.get("mask"), input_pos=batch.get("input_pos"))
