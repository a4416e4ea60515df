"""The feed-forward part of a transformer layer."""

from torch import Tensor, nn


class FeedForward(nn.Module):
    """``down(act(gate(x)) * up(x))``, or ``down(act(gate(x)))`` without ``up_proj``; [B, S, D] -> [B, S, D].

    The projections keep the names ``w1`` (gate), ``w2`` (down) and ``w3`` (up) of Meta's checkpoints.
    """

    def __init__(
        self,
        *,
        gate_proj: nn.Module,
        down_proj: nn.Module,
        up_proj: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = gate_proj, down_proj, up_proj
        self.activation = nn.SiLU() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self.w1(x))
        return self.w2(h if self.w3 is None else h * self.w3(x))
