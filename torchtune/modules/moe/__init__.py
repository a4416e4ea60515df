"""Mixture-of-experts feed-forwards.

A family puts one together of three parts: the experts (:class:`GroupedExperts` or a subclass), a router
(:class:`TokenChoiceTopKRouter` over a :class:`RouterGate`, with one of the functions that choose), and what is done
with the scores (:class:`MoE` or :class:`WeightedSumMoE`).
"""

from torchtune.modules.moe.experts import GroupedExperts, LoRAGroupedExperts
from torchtune.modules.moe.moe import (
    Choice,
    MoE,
    RouterGate,
    TokenChoiceTopKRouter,
    WeightedSumMoE,
    sigmoid_of_chosen,
    softmax_over_all,
    softmax_over_chosen,
)

__all__ = [
    "Choice",
    "GroupedExperts",
    "LoRAGroupedExperts",
    "MoE",
    "RouterGate",
    "TokenChoiceTopKRouter",
    "WeightedSumMoE",
    "sigmoid_of_chosen",
    "softmax_over_all",
    "softmax_over_chosen",
]
