"""Weight-decomposed low-rank adaptation: a trained length and a low-rank direction (https://arxiv.org/abs/2402.09353)."""

from typing import Any

import torch
from torch import Tensor, nn

from torchtune.modules.low_precision.nf4 import NF4, dequantize_nf4
from torchtune.modules.peft.lora import LoRALinear


class DoRALinear(LoRALinear):
    """``magnitude * (x W^T + scaling * dropout(x) A^T B^T) / |W + scaling B A| + bias``, lengths being those of rows.

    ``magnitude`` [out_dim] starts as the lengths of W's rows. The length in the denominator has no gradient (section
    4.3 of the paper). Arguments are those of :class:`LoRALinear`.
    """

    def _adopt(self, linear: nn.Linear, *args: Any, **kwargs: Any) -> None:
        super()._adopt(linear, *args, **kwargs)
        weight = linear.weight
        self.magnitude = nn.Parameter(torch.empty(len(weight), device=weight.device, dtype=weight.dtype))
        if not weight.is_meta:
            self.initialize_dora_magnitude()

    @torch.no_grad()
    def initialize_dora_magnitude(self) -> None:
        """Set the magnitude to the lengths of the base weight's rows, so that the layer starts out as its base."""
        weight = self.state_dict()["weight"]  # as numbers, also where it is kept in 4 bits or split over processes
        self.magnitude.copy_(row_lengths(weight))

    def adapter_params(self) -> list[str]:
        return [*super().adapter_params(), "magnitude"]

    def forward(self, x: Tensor) -> Tensor:
        if self.disabled:
            return super().forward(x)
        y = self._scale().to(x.dtype) * self._product(x, None)
        return y if self.bias is None else y + self.bias

    def _scale(self) -> Tensor:
        """``magnitude / |W + scaling B A|``, float32 [out_dim]."""
        with torch.no_grad():
            weight = _plain(self.base())
            a, b = (p.weight.to(weight.dtype) for p in (self.lora_a, self.lora_b))
            lengths = row_lengths(torch.addmm(weight, b, a, alpha=self.scaling))
        return self.magnitude.float() / lengths


def row_lengths(weight: Tensor) -> Tensor:
    """2-norms of the rows of a weight [out, in], float32 [out]; of a row of zeros the least positive number."""
    return torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).clamp(min=torch.finfo(torch.float32).tiny)


def _plain(base: Tensor | NF4) -> Tensor:
    return dequantize_nf4(base) if isinstance(base, NF4) else base
