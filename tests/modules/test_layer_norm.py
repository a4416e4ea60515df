"""Fp32LayerNorm."""

import pytest
import torch
from torch import nn

from torchtune.modules.layer_norm import Fp32LayerNorm


@pytest.mark.parametrize("kwargs", [{}, {"bias": False}, {"elementwise_affine": False}, {"eps": 0.1}])
def test_equals_torchs_layer_norm_in_float32(kwargs):
    ours, torchs, x = Fp32LayerNorm(8, **kwargs), nn.LayerNorm(8, **kwargs), torch.randn(2, 3, 8)
    torch.testing.assert_close(ours(x), torchs(x), rtol=0, atol=0)


def test_bfloat16_is_rounded_only_at_the_end():
    layer, x = Fp32LayerNorm(64).bfloat16(), (torch.randn(4, 64) * 100 + 1000).bfloat16()
    nn.init.normal_(layer.weight)
    exact = nn.functional.layer_norm(x.double(), (64,), layer.weight.double(), layer.bias.double())
    out = layer(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, exact.bfloat16(), rtol=0, atol=1e-6)
