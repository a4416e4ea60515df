"""Which tokens are drawn and how often, against transformers' logits warpers."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from torchtune.generation import sample
from torchtune.generation._sampling import truncated

CASES = [
    (1.0, None, None),
    (0.6, 5, None),
    (1.7, None, 0.8),
    (0.9, 7, 0.5),
    (1.0, 1, None),
    (1.0, 100, 1.0),
    (1.0, 3, 1e-6),
]


def logits(rows=4):
    return torch.randn(rows, 23, generator=torch.Generator().manual_seed(0)) * 2


def warped(scores, temperature, top_k, top_p):
    warpers = [TemperatureLogitsWarper(float(temperature))]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p else []
    for warper in warpers:
        scores = warper(None, scores)
    return scores


@pytest.mark.parametrize("temperature, top_k, top_p", CASES)
def test_scores_are_those_of_transformers(temperature, top_k, top_p):
    expected = warped(logits(50), temperature, top_k, top_p)
    torch.testing.assert_close(truncated(logits(50) / temperature, top_k, top_p), expected)


@pytest.mark.parametrize("temperature, top_k, top_p", CASES)
def test_tokens_are_as_frequent_as_transformers_scores_say(temperature, top_k, top_p):
    torch.manual_seed(0)
    draws, row = 20_000, logits(1)
    expected = warped(row, temperature, top_k, top_p).softmax(-1)[0]
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    counts = sample(row.expand(draws, -1), **how).flatten().bincount(minlength=23)
    assert not counts[expected == 0].any()
    deviation = (counts - draws * expected).abs() / (draws * expected * (1 - expected)).sqrt().clamp(min=1)
    assert deviation.max() < 4.5


def test_temperature_zero_is_greedy_and_draws_nothing():
    state = torch.get_rng_state()
    assert torch.equal(sample(logits(), temperature=0, top_k=2), logits().argmax(-1, keepdim=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_all_chance_is_in_q():
    q = torch.empty(4, 23).exponential_(1)
    expected = (logits().div(0.7).softmax(-1) / q).argmax(-1, keepdim=True)
    assert torch.equal(sample(logits(), temperature=0.7, q=q), expected)


def test_a_zero_in_q_does_not_bring_back_what_is_cut_off():
    least = logits(1).argmin()
    q = torch.ones(1, 23).index_fill(1, least, 0.0)
    assert sample(logits(1), top_k=3, q=q) != least


def test_one_row_without_a_batch():
    assert sample(logits()[0], temperature=0).shape == (1,)
