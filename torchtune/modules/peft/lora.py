"""Low-rank adaptation of a linear layer (https://arxiv.org/abs/2106.09685)."""

import math
from enum import Enum
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from torchtune.modules.low_precision.nf4 import Stored, hold_nf4, is_quantised, nf4_of
from torchtune.modules.peft._linear import adapted_linear


class TrainableParams(Enum):
    """What of a part of a model is trained."""

    FULL = "full"
    LORA = "lora"
    FROZEN = "frozen"


class LoRALinear(nn.Module):
    """``x W^T + bias + scaling * dropout(x) A^T B^T`` with W frozen, [..., in_dim] -> [..., out_dim].

    ``weight`` and ``bias`` keep the names that they have in ``nn.Linear``; A is ``lora_a.weight``, B ``lora_b.weight``.

    Args:
        rank: rows of A.
        alpha: ``scaling`` is ``alpha / rank``, or ``alpha / sqrt(rank)`` with ``use_rslora``.
        dropout: share of the adapter's input that is dropped in training.
        quantize_base: keep W in 4 bits, see :mod:`torchtune.modules.low_precision.nf4`.
        use_rslora: the scaling of https://arxiv.org/abs/2312.03732.
        quantization_kwargs: ``block_size`` and ``scaler_block_size`` of the quantised weight.

    Attributes:
        adapted: name of the frozen weight -> names of its A and B.
    """

    adapted: ClassVar = {"weight": ("lora_a.weight", "lora_b.weight")}

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        use_bias: bool = False,
        quantize_base: bool = False,
        *,
        use_rslora: bool = False,
        **quantization_kwargs: Any,
    ) -> None:
        super().__init__()
        if quantization_kwargs and not quantize_base:
            raise ValueError(f"{sorted(quantization_kwargs)} are read only with quantize_base=True")
        linear = nn.Linear(in_dim, out_dim, bias=use_bias)
        self._adopt(linear, rank, alpha, dropout, quantize_base, use_rslora, **quantization_kwargs)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        quantize_base: bool = False,
        use_rslora: bool = False,
    ) -> Self:
        """An adapter around a finished layer, whose weight and bias it takes over (and freezes)."""
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self._adopt(linear, rank, alpha, dropout, quantize_base, use_rslora)
        return self

    def _adopt(
        self,
        linear: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float,
        quantize_base: bool,
        use_rslora: bool,
        **quantization_kwargs: Any,
    ) -> None:
        weight = linear.weight
        self.in_dim, self.out_dim, self.rank, self.alpha = linear.in_features, linear.out_features, rank, alpha
        self.use_rslora, self.disabled = use_rslora, False
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        if quantize_base:
            hold_nf4(self, weight.shape, weight.dtype, device=weight.device, **quantization_kwargs)
            self.load_state_dict({"weight": weight}, strict=False)
        else:
            self.weight = weight.requires_grad_(False)
        self.bias = None if linear.bias is None else linear.bias.requires_grad_(False)
        like = {"bias": False, "device": weight.device, "dtype": weight.dtype}
        self.lora_a, self.lora_b = nn.Linear(self.in_dim, rank, **like), nn.Linear(rank, self.out_dim, **like)
        self.initialize_parameters()

    @property
    def scaling(self) -> float:
        """What the adapter's product is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def initialize_parameters(self) -> None:
        """Draw A as ``nn.Linear`` does and set B to zero, so that the layer starts out as its base."""
        nn.init.kaiming_uniform_(self.lora_a.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b.weight)

    def adapter_params(self) -> list[str]:
        """Names of the adapter's parameters, below this module."""
        return list(self.adapted["weight"])

    def base(self) -> Stored:
        """The frozen weight, [out_dim, in_dim], as it is kept."""
        return nf4_of(self) if is_quantised(self) else self.weight

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x, self.bias)

    def _product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        a, b, scaling = self.lora_a.weight, self.lora_b.weight, self.scaling
        dropout = self.dropout.p if self.training and isinstance(self.dropout, nn.Dropout) else 0.0
        if self.disabled:
            a, b, scaling, dropout = a.detach(), b.detach(), 0.0, 0.0
        return adapted_linear(x, self.base(), bias, a, b, scaling, dropout)
