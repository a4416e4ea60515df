"""The fused product of weight and adapter against the formula written out, and what it keeps for backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from torchtune.modules.low_precision.nf4 import dequantize_nf4, quantize_nf4
from torchtune.modules.peft._linear import adapted_linear

IN, OUT, RANK, SCALING = 64, 24, 3, 1.7
NAMES = ("x", "weight", "bias", "a", "b")


def tensors(dtype: torch.dtype = torch.float64, frozen: tuple[str, ...] = ("weight",)) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {"x": (2, 5, IN), "weight": (OUT, IN), "bias": (OUT,), "a": (RANK, IN), "b": (OUT, RANK)}
    drawn = {name: torch.randn(*shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: t.to(dtype).requires_grad_(name not in frozen) for name, t in drawn.items()}


def fused(x, weight, bias, a, b, dropout=0.0):
    return adapted_linear(x, weight, bias, a, b, SCALING, dropout)


def plain(x, weight, bias, a, b, keep=None, dropout=0.0):
    seen = x if keep is None else x * keep / (1 - dropout)
    return F.linear(x, weight, bias) + SCALING * F.linear(F.linear(seen, a), b)


def gradients(function, t: dict[str, Tensor], upstream: Tensor) -> dict[str, Tensor]:
    wanted = {name: v for name, v in t.items() if v is not None and v.requires_grad}
    return dict(zip(wanted, torch.autograd.grad(function(**t), list(wanted.values()), upstream)))


class Saved:
    """Tensors kept for backward while it is open, each storage once; ``bytes`` leaves out ``known`` ones."""

    def __init__(self, *known: Tensor) -> None:
        self.found, self.known = {}, {t.untyped_storage().data_ptr() for t in known}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda t: t)

    def _pack(self, t: Tensor) -> Tensor:
        self.found[t.untyped_storage().data_ptr()] = t
        return t

    def __enter__(self) -> "Saved":
        self.hooks.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.hooks.__exit__(*error)

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for place, t in self.found.items() if place not in self.known)


@pytest.mark.parametrize("frozen", [(), ("weight",), ("weight", "bias", "x"), ("a", "b")], ids=str)
def test_all_gradients_are_those_of_finite_differences(frozen):
    t = tensors(frozen=frozen)
    t["x"] = t["x"].detach()[:1, :2].requires_grad_("x" not in frozen)
    assert torch.autograd.gradcheck(fused, tuple(t.values()))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(IN,), (0, IN), (7, IN), (2, 3, 4, IN)], ids=str)
def test_equals_the_formula_for_any_shape_of_input(shape, with_bias):
    t = tensors(frozen=())
    t["x"] = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    if not with_bias:
        t["bias"] = None
    upstream = torch.randn(*shape[:-1], OUT, dtype=torch.float64)
    torch.testing.assert_close(fused(**t), plain(**t))
    torch.testing.assert_close(gradients(fused, t, upstream), gradients(plain, t, upstream))


def test_inputs_and_gradients_that_are_not_contiguous():
    t = tensors(frozen=())
    t["x"] = torch.randn(IN, 3, 2, dtype=torch.float64).permute(2, 1, 0).requires_grad_()
    upstream = torch.ones((), dtype=torch.float64).expand(2, 3, OUT)
    torch.testing.assert_close(gradients(fused, t, upstream), gradients(plain, t, upstream))
    t["x"] = torch.randn(2, 6, IN, dtype=torch.float64)[:, ::2].requires_grad_()
    torch.testing.assert_close(gradients(fused, t, upstream), gradients(plain, t, upstream))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_as_near_to_the_truth_as_the_formula(dtype):
    t, truth = tensors(dtype), tensors(dtype)
    truth = {name: v.detach().double().requires_grad_(v.requires_grad) for name, v in truth.items()}
    upstream = torch.randn(2, 5, OUT).to(dtype)
    exact = {"y": plain(**truth)} | gradients(plain, truth, upstream.double())
    found, written = ({"y": f(**t)} | gradients(f, t, upstream) for f in (fused, plain))
    for name, expected in exact.items():
        assert found[name].dtype == dtype
        errors = [(v[name].double() - expected).norm() / expected.norm() for v in (found, written)]
        assert errors[0] < max(1.5 * errors[1], 1e-3), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_its_dtype(dtype):
    t, upstream = tensors(torch.float32, frozen=()), torch.randn(2, 5, OUT).to(dtype)
    with torch.autocast("cpu", dtype):
        y = fused(**t)
    assert y.dtype == dtype
    low = {name: v.detach().to(dtype).requires_grad_() for name, v in t.items()}
    assert torch.equal(y, fused(**low))
    found = dict(zip(t, torch.autograd.grad(y, list(t.values()), upstream)))
    expected = gradients(fused, low, upstream)
    for name in NAMES:
        assert found[name].dtype == torch.float32 and torch.equal(found[name], expected[name].float())


def test_autocast_reaches_a_quantised_weight():
    t = tensors(torch.float32)
    held = quantize_nf4(t["weight"])
    with torch.autocast("cpu", torch.bfloat16):
        y = fused(**t | {"weight": held})
        expected = fused(**t | {"weight": dequantize_nf4(held)})
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_quantised_weight_acts_as_its_float_one(dropout):
    t, upstream = tensors(torch.float32), torch.randn(2, 5, OUT)
    held = quantize_nf4(t["weight"])
    found = []
    for weight in (held, dequantize_nf4(held)):
        torch.manual_seed(3)
        given = t | {"weight": weight}
        y = fused(**given, dropout=dropout)
        trained = [v for name, v in given.items() if name != "weight"]
        found.append([y, *torch.autograd.grad(y, trained, upstream)])
    assert all(torch.equal(quantised, plain_one) for quantised, plain_one in zip(*found))


def _keep_of(dropout: float) -> Tensor:
    """What the adapter sees under the current seed: A that gives each channel by itself shows it."""
    eye = torch.eye(IN, dtype=torch.float64)
    ones = torch.ones(2, 5, IN, dtype=torch.float64)
    return adapted_linear(ones, torch.zeros_like(eye), None, eye, eye, 1.0, dropout)


def test_dropout_is_the_same_in_forward_and_backward():
    t, upstream = tensors(frozen=()), torch.randn(2, 5, OUT, dtype=torch.float64)
    torch.manual_seed(1)
    seen = _keep_of(0.3)
    torch.testing.assert_close(seen.unique(), torch.tensor([0, 1 / 0.7], dtype=torch.float64))

    def ours(**values):
        torch.manual_seed(1)
        return fused(**values, dropout=0.3)

    def written_out(**values):
        return plain(**values, keep=seen)

    torch.testing.assert_close(ours(**t), written_out(**t))
    torch.testing.assert_close(gradients(ours, t, upstream), gradients(written_out, t, upstream))


@pytest.mark.parametrize("dropout", [0.05, 0.5, 0.9])
def test_dropout_keeps_the_mean(dropout):
    torch.manual_seed(0)
    width = 20_000
    ones, a = torch.ones(50, width), torch.full((1, width), 1 / width)
    y = adapted_linear(ones, torch.zeros(1, width), None, a, torch.ones(1, 1), 1.0, dropout)
    spread = (dropout / (1 - dropout) / width) ** 0.5  # of the mean over one row
    assert abs(y.mean() - 1) < 5 * spread / 50**0.5
    assert 0.5 * spread < y.std() < 1.5 * spread


def test_recomputation_repeats_the_dropout():
    t, upstream = tensors(frozen=()), torch.randn(2, 5, OUT, dtype=torch.float64)

    def straight(**values):
        torch.manual_seed(2)
        return fused(**values, dropout=0.4)

    def recomputed(**values):
        torch.manual_seed(2)
        return checkpoint(lambda: fused(**values, dropout=0.4), use_reentrant=False)

    expected, found = (gradients(f, t, upstream) for f in (straight, recomputed))
    assert all(torch.equal(found[name], expected[name]) for name in NAMES)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_three_projections_of_one_input_keep_it_once(dropout):
    x = torch.randn(6, IN, dtype=torch.bfloat16, requires_grad=True)
    sets = [tensors(torch.bfloat16) for _ in range(3)]
    parameters = [v for t in sets for name, v in t.items() if name != "x"]
    with Saved(*parameters) as saved:
        ys = [fused(**t | {"x": x, "bias": None}, dropout=dropout) for t in sets]
    middle = 3 * 6 * RANK * 2
    masks = 3 * x.numel() if dropout else 0
    assert saved.bytes == x.nbytes + middle + masks
    assert all(y.requires_grad for y in ys)


def test_a_quantised_weight_keeps_nothing_but_itself():
    t = tensors(torch.bfloat16)
    held = quantize_nf4(t["weight"])
    parts = (held.codes, held.scale, held.scale_factor, held.scale_mean)
    with Saved(t["x"], t["a"], t["b"], t["bias"], *parts) as saved:
        fused(**t | {"weight": held})
    assert saved.bytes == 10 * RANK * 2


@pytest.mark.parametrize("quantised", [False, True])
def test_a_frozen_weight_costs_no_gradient(quantised):
    class Shapes(TorchDispatchMode):
        made: list = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            if isinstance(result, Tensor) and function is not torch.ops.aten.t.default:
                self.made.append((tuple(result.shape), result.dtype))
            return result

    t = tensors(torch.float32)
    t["x"] = t["x"].detach()  # d/dx needs the float form of a quantised weight
    given = t | {"weight": quantize_nf4(t["weight"])} if quantised else t
    y = fused(**given)
    with Shapes() as shapes:
        y.sum().backward()
    assert ((RANK, IN), torch.float32) in shapes.made
    assert not any(shape in ((OUT, IN), (IN, OUT)) for shape, _ in shapes.made)


def test_nothing_is_kept_without_gradients():
    with torch.no_grad(), Saved() as saved:
        y = fused(**tensors(frozen=()))
    assert saved.bytes == 0 and not y.requires_grad
