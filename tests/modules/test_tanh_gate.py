"""TanhGate."""

import math

import torch

from torchtune.modules.tanh_gate import TanhGate


def test_starts_closed_and_opens_with_its_scale():
    gate, x = TanhGate(), torch.randn(2, 3)
    assert {k: v.shape for k, v in gate.state_dict().items()} == {"scale": (1,)}
    assert gate(x).abs().max() == 0
    with torch.no_grad():
        gate.scale.fill_(0.5)
    torch.testing.assert_close(gate(x), x * math.tanh(0.5))
