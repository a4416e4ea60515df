"""Greedy answers, token for token those of transformers' ``generate``: every Llama, alone and in padded batches."""

import pytest
import torch
from test_llama_logits import CASES, load_from, oracle

from torchtune.generation import decode

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


@pytest.mark.parametrize("case", CASES)
def test_every_llama(case):
    config, build = CASES[case]
    theirs = oracle(config)
    ours = load_from(theirs, build())
    expected = their_answers(theirs, PROMPTS)
    assert decode(ours, PROMPTS, max_new_tokens=NEW) == expected
    assert [decode(ours, [p], max_new_tokens=NEW)[0] for p in PROMPTS] == expected
    assert len({tuple(answer) for answer in expected}) == 3


def test_stop_tokens():
    config, build = CASES["llama3_2"]
    theirs = oracle(config)
    ours = load_from(theirs, build())
    free = their_answers(theirs, PROMPTS)
    stops = [free[0][5], free[1][10]]
    padded = their_answers(theirs, PROMPTS, stop=stops)
    answers = decode(ours, PROMPTS, max_new_tokens=NEW, stop_tokens=stops)
    width = max(map(len, answers))
    assert [answer + [0] * (width - len(answer)) for answer in answers] == padded
    assert len(answers[0]) <= 6 < NEW
