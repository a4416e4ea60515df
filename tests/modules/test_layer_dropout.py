"""Stochastic depth: who skips, how often, and that no name changes."""

import copy

import pytest
import torch
from torch import nn

from torchtune.models.llama3_2 import llama3_2
from torchtune.modules.layer_dropout import (
    LayerDropout,
    ModuleLayerDropoutWrapper,
    ScaleType,
    get_scale,
    prepare_layer_dropout,
)


def tiny_model():
    return llama3_2(
        vocab_size=32, num_layers=3, num_heads=2, num_kv_heads=1, embed_dim=8, max_seq_len=16, intermediate_dim=16
    )


def test_kept_samples_go_through_the_function_and_the_others_pass():
    x = torch.arange(200.0).view(100, 2)
    out = LayerDropout(0.3, seed=0)(lambda t: t + 1000, x)
    kept = (out - x)[:, 0] == 1000
    assert torch.equal(out[~kept], x[~kept]) and torch.equal(out[kept], x[kept] + 1000)
    assert 60 <= kept.sum() <= 80


def test_another_dimension_can_count_the_samples():
    x = torch.zeros(2, 50)
    out = LayerDropout(0.5, dim=1, seed=0)(lambda t: t + 1, x)
    assert torch.equal(out[0], out[1]) and 10 < out[0].sum() < 40


@pytest.mark.parametrize(("prob", "calls"), [(0.0, 1), (1.0, 0)])
def test_certain_probabilities(prob, calls):
    seen = []
    x = torch.ones(4, 2)
    out = LayerDropout(prob)(lambda t: seen.append(t) or t + 1, x)
    assert len(seen) == calls and torch.equal(out, x + calls)


def test_eval_mode_skips_nothing_unless_told_so():
    x = torch.zeros(100, 1)
    assert LayerDropout(0.5).eval()(lambda t: t + 1, x).sum() == 100
    assert 20 < LayerDropout(0.5, disable_on_eval=False, seed=0).eval()(lambda t: t + 1, x).sum() < 80


def test_a_seed_gives_the_same_draws_without_touching_torchs_generator():
    x, before = torch.zeros(50, 1), torch.get_rng_state()
    first, second = (LayerDropout(0.5, seed=3)(lambda t: t + 1, x) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), before)


def test_per_sample_arguments_follow_their_samples():
    x, mask, shared = torch.zeros(50, 2), torch.arange(50.0).view(50, 1).expand(50, 2), torch.ones(2)
    out = LayerDropout(0.5, seed=0)(lambda t, s, mask: t + mask + s, x, shared, mask=mask)
    kept = out.sum(1) > 0
    assert torch.equal(out[kept], (mask + 1)[kept]) and not kept.all()


def test_gradients_skip_what_was_skipped():
    x, layer = torch.ones(20, 3, requires_grad=True), nn.Linear(3, 3)
    out = LayerDropout(0.5, seed=0)(layer, x)
    out.sum().backward()
    skipped = (out == x).all(1)
    assert 0 < skipped.sum() < 20
    assert torch.equal(x.grad[skipped], torch.ones(int(skipped.sum()), 3))
    torch.testing.assert_close(layer.bias.grad, torch.full((3,), float((~skipped).sum())))


@pytest.mark.parametrize("prob", [-0.1, 1.5])
def test_what_is_no_probability_is_refused(prob):
    with pytest.raises(ValueError, match="from 0 to 1"):
        LayerDropout(prob)


# Values of torchtune 0.6.1 at depths 0, 1, 2, 4, 5 of a period of 4.
SCALES = {
    "uniform": (1, 1, 1, 1, 1),
    "exp": (0, 0.189207, 0.414214, 1, 1),
    "linear": (0, 0.25, 0.5, 1, 1),
    "log": (0, 0.430677, 0.682606, 1, 1),
    "sin": (0, 0.382683, 0.707107, 1, 1),
    "sigmoid": (0.006693, 0.075858, 0.5, 1, 1),
}


@pytest.mark.parametrize("name", SCALES)
def test_scales(name):
    values = [get_scale(ScaleType(name), 4, depth) for depth in (0, 1, 2, 4, 5)]
    assert values == pytest.approx(SCALES[name], abs=1e-6)
    assert get_scale(ScaleType(name), 0, 0) == 1


def test_a_scale_without_a_curve_is_refused():
    with pytest.raises(ValueError, match="no curve"):
        get_scale(ScaleType.STEP, 4, 1)


def test_prepare_sets_the_probability_of_each_layer():
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(6))
    prepare_layer_dropout(layers, 0.6, ScaleType.LINEAR, "::2", disable_on_eval=False)
    assert [layer.dropout.prob for layer in layers] == pytest.approx([0, 0, 0.24, 0, 0.48, 0])
    assert not any(layer.dropout.disable_on_eval for layer in layers)


def test_no_name_changes_and_checkpoints_load():
    model = tiny_model()
    names, weights = [n for n, _ in model.named_parameters()], copy.deepcopy(model.state_dict())
    prepare_layer_dropout(model.layers, 0.5)
    assert [n for n, _ in model.named_parameters()] == names == list(model.state_dict())
    model.load_state_dict({k: v + 1 for k, v in weights.items()})
    assert torch.equal(model.layers[1].module.attn.q_proj.weight, weights["layers.1.attn.q_proj.weight"] + 1)
    assert model.to(torch.bfloat16).layers[0].module.sa_norm.scale.dtype == torch.bfloat16


def test_a_model_trains_and_evaluates_behind_it():
    torch.manual_seed(0)
    model, tokens = tiny_model(), torch.randint(0, 32, (4, 5))
    plain = model.eval()(tokens)
    prepare_layer_dropout(model.layers, 1.0)
    assert torch.equal(model.eval()(tokens), plain)
    skipped = model.train()(tokens)
    assert model.layers[0].module.training
    torch.testing.assert_close(skipped, model.unembed(model.tok_embeddings(tokens)))
    mask = torch.ones(4, 5, 5, dtype=torch.bool).tril()
    for layer in model.layers:
        layer.dropout.prob = 0.5
    model(tokens, mask=mask, input_pos=torch.arange(5).expand(4, 5)).sum().backward()


def test_the_wrapper_answers_for_its_layer():
    model = tiny_model()
    prepare_layer_dropout(model.layers, 0.5)
    layer = copy.deepcopy(model).layers[0]
    assert isinstance(layer, ModuleLayerDropoutWrapper) and layer.attn.num_heads == 2
    model.setup_caches(1, torch.float32)
    assert model.caches_are_enabled() and not hasattr(layer, "absent")


def test_layers_that_are_recomputed_skip_alike_in_backward():
    tokens, grads = torch.randint(0, 32, (8, 5)), []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = tiny_model()
        prepare_layer_dropout(model.layers, 0.5)
        for layer in model.layers:
            layer.recompute = recompute
        model(tokens).square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*grads, rtol=0, atol=0)
