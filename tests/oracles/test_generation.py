"""Greedy answers, token for token those of transformers' ``generate``: every family, alone and in padded batches."""

import pytest
import torch
from family_cases import Case, all_cases
from test_family_parity import ours_like

from torchtune.generation import decode

CASES = all_cases()
PROMPTS = [[5, 17, 23, 40], [11, 8, 9, 30, 41, 52, 63, 74, 85, 6, 7], [90]]
NEW = 24


def their_answers(model, prompts, stop=None) -> list[list[int]]:
    """New tokens by transformers, from a batch padded on the left."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    how = {"do_sample": False, "max_new_tokens": NEW, "pad_token_id": 0, "eos_token_id": stop}
    model.generation_config.eos_token_id = None
    return model.generate(input_ids=tokens, attention_mask=mask, **how)[:, width:].tolist()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_family(case: Case):
    theirs = case.oracle()
    ours = ours_like(theirs)
    expected = their_answers(theirs, PROMPTS)
    if case.model_type == "llama4_text":  # whose queries transformers tunes as if the padding were part of the prompt
        expected = [their_answers(theirs, [prompt])[0] for prompt in PROMPTS]
    assert decode(ours, PROMPTS, max_new_tokens=NEW) == expected
    for prompt in PROMPTS:  # LongRoPE goes by the longest of a batch, so an answer alone may be another
        assert decode(ours, [prompt], max_new_tokens=NEW) == their_answers(theirs, [prompt])
    assert len({tuple(answer) for answer in expected}) > 1


def test_stop_tokens():
    theirs = CASES["llama/3_2"].oracle()
    ours = ours_like(theirs)
    free = their_answers(theirs, PROMPTS)
    stops = [free[0][5], free[1][10]]
    padded = their_answers(theirs, PROMPTS, stop=stops)
    answers = decode(ours, PROMPTS, max_new_tokens=NEW, stop_tokens=stops)
    width = max(map(len, answers))
    assert [answer + [0] * (width - len(answer)) for answer in answers] == padded
    assert len(answers[0]) <= 6 < NEW
