"""Batches of prompts of different lengths: each up to its own end, in steps of one shape."""

import functools

import pytest
import torch
from torch._dynamo.utils import counters

from torchtune.errors import DataError
from torchtune.generation import _decode, decode, stream

PROMPTS = [[5, 6], [3, 4, 5, 6, 7], [9]]


@pytest.mark.parametrize("enable_kv_cache", [True, False])
def test_each_prompt_is_answered_as_if_alone(model, enable_kv_cache):
    together = decode(model, PROMPTS, max_new_tokens=12, enable_kv_cache=enable_kv_cache)
    alone = [decode(model, [prompt], max_new_tokens=12, cache_tokens=40)[0] for prompt in PROMPTS]
    assert together == alone and all(len(answer) == 12 for answer in together)
    assert not model.caches_are_setup()


def test_the_pad_token_is_not_looked_at(model):
    assert decode(model, PROMPTS, max_new_tokens=8, pad_id=0) == decode(model, PROMPTS, max_new_tokens=8, pad_id=5)


def test_answers_end_each_on_its_own_and_then_generation_does(model):
    free = decode(model, PROMPTS, max_new_tokens=12)
    stops = {answer[number] for answer, number in zip(free, (3, 6, 1))}
    expected = [answer[: next(i for i, t in enumerate(answer) if t in stops) + 1] for answer in free]
    steps = []
    wanted = decode(model, PROMPTS, max_new_tokens=12, stop_tokens=stops, ends=lambda ids: steps.append(len(ids)))
    assert wanted == expected
    assert max(steps) < 12, "it went on after all had ended"
    short = decode(model, PROMPTS, max_new_tokens=12, ends=lambda ids: len(ids) == 3)
    assert short == [answer[:3] for answer in free]


def test_seeded_sampling_is_reproducible(model):
    def run(seed, **how):
        return decode(model, PROMPTS, max_new_tokens=9, generator=torch.Generator().manual_seed(seed), **how)

    assert run(1, temperature=1.0, top_k=20, top_p=0.9) == run(1, temperature=1.0, top_k=20, top_p=0.9)
    assert run(1, temperature=1.0) != run(2, temperature=1.0)
    assert run(1, temperature=0.9, top_k=1) == decode(model, PROMPTS, max_new_tokens=9)


def test_tokens_come_one_after_the_other(model):
    steps = stream(model, PROMPTS, max_new_tokens=5)
    first = next(steps)
    assert model.caches_are_enabled()
    rest = list(steps)
    assert [list(row) for row in zip(first, *rest)] == decode(model, PROMPTS, max_new_tokens=5)
    abandoned = stream(model, PROMPTS, max_new_tokens=5)
    next(abandoned)
    abandoned.close()
    assert not model.caches_are_setup()


def test_batches_of_all_lengths_share_one_graph(model, monkeypatch):
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", lambda f, mode, **how: COMPILE(f, backend="eager", **how))
    monkeypatch.setattr(_decode, "_compiled_step", functools.cache(_decode._compiled_step.__wrapped__))
    for prompts in (PROMPTS, [[8, 9, 10, 11], [1], [2, 3]], [[7] * 9, [6] * 2, [5] * 4]):
        how = {"max_new_tokens": 7, "cache_tokens": 16}
        assert decode(model, prompts, **how, compile=True) == decode(model, prompts, **how)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


COMPILE = torch.compile


@pytest.mark.parametrize(
    "prompts, new, message",
    [
        ([], 3, "no prompt"),
        ([[1], []], 3, "a prompt is empty"),
        ([[1] * 40], 10, "set max_new_tokens to at most 9"),
        ([[1] * 49], 10, "shorten the prompt"),
    ],
)
def test_what_cannot_be_answered_is_refused(model, prompts, new, message):
    with pytest.raises(DataError, match=message):
        decode(model, prompts, max_new_tokens=new)
    with pytest.raises(DataError, match=message):
        next(stream(model, prompts, max_new_tokens=new))
