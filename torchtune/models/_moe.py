"""Feed-forwards with experts as parts of a decoder, and what a ``config.json`` says of them."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from torchtune.errors import CheckpointError
from torchtune.models._decoder import ACTIVATIONS, Arch
from torchtune.modules.moe import (
    Choice,
    GroupedExperts,
    MoE,
    RouterGate,
    TokenChoiceTopKRouter,
    WeightedSumMoE,
    softmax_over_chosen,
)


def top_k_router(a: Arch, choose: Choice, *, bias: bool = False) -> TokenChoiceTopKRouter:
    """A router that sends each token to ``a.experts_per_token`` of ``a.num_experts``.

    Args:
        choose: one of the functions in :mod:`torchtune.modules.moe` that make scores of logits.
        bias: of the logits.
    """
    return TokenChoiceTopKRouter(
        gate=RouterGate(a.embed_dim, a.num_experts, bias=bias),
        dim=a.embed_dim,
        num_experts=a.num_experts,
        experts_per_token=a.experts_per_token,
        choose=choose,
    )


def sparse_mlp(
    a: Arch,
    layer: int,
    *,
    choose: Choice = softmax_over_chosen,
    intermediate_dim: int | None = None,
    kind: type[MoE] = WeightedSumMoE,
    shared_expert: nn.Module | None = None,
) -> MoE:
    """Gated feed-forwards as experts, whose answers are weighted with the scores unless ``kind`` is another.

    Args:
        intermediate_dim: of each expert; None: ``a.intermediate_dim``.
        shared_expert: sees every token.
    """
    experts = GroupedExperts(
        dim=a.embed_dim,
        hidden_dim=intermediate_dim or a.intermediate_dim,
        num_experts=a.num_experts,
        activation=ACTIVATIONS[a.activation](),
    )
    return kind(experts=experts, router=top_k_router(a, choose), shared_expert=shared_expert)


def routing_from_hf(config: Mapping[str, Any]) -> dict[str, int]:
    """The numbers of experts, as fields of :class:`Arch`.

    Transformers adds ``router_aux_loss_coef`` times a loss that keeps the experts equally busy when
    ``output_router_logits`` is set; it is off unless a config asks for it, and there is no such loss here.

    Raises:
        CheckpointError: a number is missing, or the config asks for that loss or for noise in the router.
    """
    config.get("router_aux_loss_coef")  # has no effect without the next
    for key, what in (("output_router_logits", "the router's loss"), ("router_jitter_noise", "noise in the router")):
        if value := config.get(key):
            raise CheckpointError(
                f"config.json asks for {what} in training ({key}: {value}), which is not known here; set {key} to "
                f"{type(value)()} to train without it. What the model computes otherwise stays the same"
            )
    return {
        "num_experts": number(config, "num_local_experts", "num_experts"),
        "experts_per_token": number(config, "num_experts_per_tok"),
    }


def number(config: Mapping[str, Any], *keys: str) -> int:
    """The value of a ``config.json`` under the first of these keys that it has.

    Raises:
        CheckpointError: it has none.
    """
    found = [config.get(key) for key in keys]
    if not any(found):
        raise CheckpointError(f"config.json lacks {' or '.join(map(repr, keys))}; is it complete?")
    return next(filter(None, found))
