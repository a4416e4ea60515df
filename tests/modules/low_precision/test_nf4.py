"""4-bit NormalFloat, against torchao bit for bit."""

import os
import shutil
import warnings

import pytest
import torch
from torch import Tensor

from torchtune.modules.low_precision import FrozenNF4Linear
from torchtune.modules.low_precision import nf4 as inside
from torchtune.modules.low_precision.nf4 import LEVELS, NF4, dequantize_nf4, quantize_nf4

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="session")
def to_nf4():
    with warnings.catch_warnings(action="ignore"):
        return pytest.importorskip("torchao.quantization", reason="torchao, the oracle, is not installed").to_nf4


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def ties(dtype: torch.dtype) -> Tensor:
    """All 16-bit values in -1 .. 1, or the float32 values around each midpoint of two levels; blocks hold a 1."""
    if dtype.itemsize == 2:
        values = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)
        values = values[values.abs() <= 1]
    else:
        levels = torch.tensor(LEVELS)
        midpoints = ((levels[1:] + levels[:-1]) / 2).view(torch.int32)
        values = (midpoints.unsqueeze(1) + torch.arange(-20, 21, dtype=torch.int32)).view(torch.float32).flatten()
    padded = torch.zeros(-(-len(values) // (63 * 256)) * 256, 63, dtype=dtype)
    padded.view(-1)[: len(values)] = values
    return torch.cat([padded, torch.ones(len(padded), 1, dtype=dtype)], dim=1)


CASES = {
    "one row a block": random(512, 64),
    "many blocks a row": random(64, 4096),
    "larger than a part": random(1024, 768),
    "transposed": random(64, 512).t(),
    "zeros": torch.zeros(128, 256),
    "the same everywhere": torch.full((128, 256), 0.3),
    "the same in each row": random(128, 1).expand(128, 256),
    "rows of zeros": torch.cat([torch.zeros(64, 256), random(64, 256)]),
    "small": random(128, 256) * 1e-3,
    "ten orders of magnitude": random(128, 256) * torch.logspace(-6, 4, 128).unsqueeze(1),
    "outliers": torch.where(random(128, 256) > 3, 1000, 0.01) * random(128, 256),
}


def assert_equals_torchao(weight: Tensor, to_nf4, block_size: int = 64, scaler_block_size: int = 256) -> None:
    theirs, ours = (
        to_nf4(weight.clone(), block_size, scaler_block_size),
        quantize_nf4(weight, block_size, scaler_block_size),
    )
    pairs = [
        (ours.codes, theirs.quantized_data),
        (ours.scale, theirs.quantized_scalers),
        (ours.scale_factor, theirs.quantization_factor),
        (ours.scale_mean, theirs.scaler_mean),
        (dequantize_nf4(ours), theirs.get_original_weight()),
    ]
    for mine, other in pairs:
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine.flatten(), other.flatten(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_equals_torchao(case, dtype, to_nf4):
    assert_equals_torchao(CASES[case].to(dtype), to_nf4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_torchao_between_two_levels(dtype, to_nf4):
    assert_equals_torchao(ties(dtype), to_nf4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_torchao_at_the_ends_of_the_range(dtype, to_nf4):
    weight, end = random(128, 256).clamp(-1, 1), torch.finfo(dtype)
    assert_equals_torchao((weight * end.tiny / 16).to(dtype), to_nf4)  # subnormal
    assert_equals_torchao((weight * end.max / 600).to(dtype), to_nf4)  # the sum of 512 magnitudes is finite


def test_equals_torchao_with_other_block_sizes(to_nf4):
    assert_equals_torchao(random(64, 128), to_nf4, block_size=32, scaler_block_size=16)
    assert_equals_torchao(random(64, 256), to_nf4, block_size=128, scaler_block_size=128)


@pytest.mark.parametrize("shape", [(3, 64), (131, 192), (300, 64), (1, 320)])
def test_a_last_group_of_fewer_blocks(shape, to_nf4):
    """torchao takes whole groups only; codes do not depend on the group, and magnitudes are right to one step."""
    weight = random(*shape)
    blocks = weight.view(-1, 64)
    ours = quantize_nf4(weight)
    padded = torch.cat([blocks, random(-len(blocks) % 256, 64)])
    assert torch.equal(ours.codes.flatten(), to_nf4(padded).quantized_data[: ours.codes.numel()])
    assert len(ours.scale_factor) == -(-len(blocks) // 256)
    true, restored = blocks.abs().amax(1), dequantize_nf4(ours).view(-1, 64).abs().amax(1)
    step = 1 / ours.scale_factor.repeat_interleave(256)[: len(blocks)]
    assert ((restored - true).abs() <= step * 1.001).all()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_zeros_stay_zeros(dtype):
    weight = torch.zeros(3, 64, dtype=dtype)
    assert torch.equal(dequantize_nf4(quantize_nf4(weight)), weight)


def test_some_rows_of_a_weight():
    nf4 = quantize_nf4(random(200, 192))  # 600 blocks, and 256 of them end inside a row
    whole = dequantize_nf4(nf4)
    rows = NF4(nf4.codes[70:], nf4.scale[70:], nf4.scale_factor, nf4.scale_mean)
    assert torch.equal(dequantize_nf4(rows, first_block=70 * 3), whole[70:])
    assert dequantize_nf4(NF4(nf4.codes[:0], nf4.scale[:0], nf4.scale_factor, nf4.scale_mean)).shape == (0, 192)


@pytest.mark.parametrize("dtype", DTYPES)
def test_restored_in_another_dtype(dtype):
    nf4 = quantize_nf4(random(64, 128).bfloat16())
    assert torch.equal(dequantize_nf4(nf4, dtype), dequantize_nf4(nf4).to(dtype))


def test_a_row_must_be_whole_blocks():
    with pytest.raises(ValueError, match="rows of 100 values cannot be cut into blocks of 64"):
        quantize_nf4(torch.zeros(64, 100))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler for inductor")
def test_compiled_gives_the_same_bits():
    for dtype in (torch.float32, torch.bfloat16):
        nf4 = quantize_nf4(random(200, 192).to(dtype))
        expected = dequantize_nf4(nf4).view(600, 64)
        levels, magnitudes = torch.tensor(LEVELS, dtype=dtype), expected.abs().amax(dim=1, keepdim=True)
        assert torch.equal(inside._compiled()(nf4.codes.view(600, 32), levels, magnitudes), expected)  # as on a GPU
    layer = FrozenNF4Linear(192, 20, dtype=torch.bfloat16)
    x = random(5, 192).bfloat16().requires_grad_()
    results = []
    for run in (layer, torch.compile(layer, fullgraph=True)):
        y = run(x)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), x)))
    assert all(torch.equal(eager, compiled) for eager, compiled in zip(*results))
