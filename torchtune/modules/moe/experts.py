"""The experts of a layer, kept as stacks of matrices, and their low-rank adapters."""

import math
from collections.abc import Callable
from functools import cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules.low_precision.nf4 import Stored, hold_nf4, is_quantised, nf4_of
from torchtune.modules.moe.utils import grouped_product

STACKS = ("gate_proj", "up_proj", "down_proj")


class GroupedExperts(nn.Module):
    """Gated feed-forwards side by side, each for tokens of its own, [R, dim] -> [R, dim].

    Expert e computes ``(activation(x gate_proj[e]) * (x up_proj[e])) down_proj[e]``; ``gate_proj`` and ``up_proj`` are
    [E, dim, hidden_dim], ``down_proj`` is [E, hidden_dim, dim]. A family whose experts are others overrides
    :meth:`project` (for biases) or :meth:`hidden` (for what lies between).
    """

    def __init__(
        self, *, dim: int, hidden_dim: int, num_experts: int = 1, activation: Callable[[Tensor], Tensor] = F.silu
    ) -> None:
        super().__init__()
        self.dim, self.hidden_dim, self.num_experts, self.activation = dim, hidden_dim, num_experts, activation
        self.gate_proj = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.up_proj = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the matrices as ``nn.Linear`` draws its weight."""
        for stack in STACKS:
            _draw(getattr(self, stack))

    def forward(self, x: Tensor, num_tokens_per_expert: Tensor) -> Tensor:
        """Run the experts.

        Args:
            x: the rows of the first expert, then those of the second, and so on, [R, dim].
            num_tokens_per_expert: how many rows each has, int [E].
        """
        gate = self.project(x, "gate_proj", num_tokens_per_expert)
        up = self.project(x, "up_proj", num_tokens_per_expert)
        return self.project(self.hidden(gate, up), "down_proj", num_tokens_per_expert)

    def project(self, x: Tensor, stack: str, num_tokens_per_expert: Tensor) -> Tensor:
        """Rows of x times their experts' matrices in the parameter called ``stack``, [R, I] -> [R, O]."""
        return grouped_product(x, self.base(stack), num_tokens_per_expert)

    def hidden(self, gate: Tensor, up: Tensor) -> Tensor:
        """What ``down_proj`` gets of the first two products, [R, hidden_dim] each."""
        return self.activation(gate) * up

    def base(self, stack: str) -> Stored:
        """A stack as it is kept."""
        return nf4_of(self, stack) if is_quantised(self, stack) else getattr(self, stack)

    def quantize(self) -> None:
        """Freeze the stacks and keep them in 4 bits from now on; see :mod:`torchtune.modules.low_precision.nf4`.

        Raises:
            ValueError: ``dim`` or ``hidden_dim`` is not a multiple of 64.
        """
        for stack in STACKS:
            drawn = getattr(self, stack).detach()
            hold_nf4(self, drawn.shape, drawn.dtype, device=drawn.device, leaf=stack)
            self.load_state_dict({stack: drawn}, strict=False)


class LoRAGroupedExperts(GroupedExperts):
    """Experts with frozen matrices W, each of which computes ``x W + scaling * dropout(x) A B``.

    Those of ``gate_proj`` are ``lora_gate_a`` [E, dim, rank] and ``lora_gate_b`` [E, rank, hidden_dim]; likewise
    ``lora_up_*`` and ``lora_down_*``.

    Args:
        rank: columns of each A.
        alpha: ``scaling`` is ``alpha / rank``, or ``alpha / sqrt(rank)`` with ``use_rslora``.
        dropout: share of an adapter's input that is dropped in training.

    Attributes:
        adapted: name of each stack -> names of its A and B.
    """

    adapted: ClassVar = {
        "gate_proj": ("lora_gate_a", "lora_gate_b"),
        "up_proj": ("lora_up_a", "lora_up_b"),
        "down_proj": ("lora_down_a", "lora_down_b"),
    }

    def __init__(
        self,
        *,
        dim: int,
        hidden_dim: int,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        num_experts: int = 1,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__(dim=dim, hidden_dim=hidden_dim, num_experts=num_experts, activation=activation)
        self._adapt(rank, alpha, dropout, quantize_base=False, use_rslora=False)

    @staticmethod
    def from_experts(
        experts: GroupedExperts,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        quantize_base: bool = False,
        use_rslora: bool = False,
    ) -> "LoRAGroupedExperts":
        """The same experts, changed in place to have adapters; what a subclass does differently stays."""
        experts.__class__ = _with_adapters(type(experts))
        experts._adapt(rank, alpha, dropout, quantize_base, use_rslora)
        return experts

    def _adapt(self, rank: int, alpha: float, dropout: float, quantize_base: bool, use_rslora: bool) -> None:
        taken = {"rank", "alpha", "use_rslora", "disabled", "dropout"} & vars(self).keys()
        assert not taken, f"{type(self).__name__} has attributes that its adapters need: {sorted(taken)}"
        self.requires_grad_(False)
        self.rank, self.alpha, self.use_rslora, self.disabled = rank, alpha, use_rslora, False
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        for stack, (a, b) in self.adapted.items():
            weight = getattr(self, stack)
            self.register_parameter(a, nn.Parameter(weight.new_empty(*weight.shape[:2], rank)))
            self.register_parameter(b, nn.Parameter(weight.new_empty(len(weight), rank, weight.shape[2])))
        if quantize_base:
            self.quantize()
        self.initialize_parameters()

    @property
    def scaling(self) -> float:
        """What an adapter's product is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def adapter_params(self) -> list[str]:
        """Names of the adapters' parameters, below this module."""
        return [name for pair in self.adapted.values() for name in pair]

    def initialize_parameters(self) -> None:
        """Draw every A and set every B to zero, so that the experts start out as their base."""
        for a, b in self.adapted.values():
            _draw(getattr(self, a))
            nn.init.zeros_(getattr(self, b))

    def project(self, x: Tensor, stack: str, num_tokens_per_expert: Tensor) -> Tensor:
        y = super().project(x, stack, num_tokens_per_expert)
        if self.disabled:
            return y
        a, b = (getattr(self, name) for name in self.adapted[stack])
        h = grouped_product(self.dropout(x), a, num_tokens_per_expert) * self.scaling
        return y + grouped_product(h, b, num_tokens_per_expert)


@cache
def _with_adapters(kind: type[GroupedExperts]) -> type[LoRAGroupedExperts]:
    """What a subclass overrides, adapters add to: theirs comes before its in the order of classes."""
    if kind is GroupedExperts:
        return LoRAGroupedExperts
    return type(f"LoRA{kind.__name__}", (LoRAGroupedExperts, kind), {})


def _draw(stack: Tensor) -> None:
    nn.init.uniform_(stack, -(stack.shape[1] ** -0.5), stack.shape[1] ** -0.5)
