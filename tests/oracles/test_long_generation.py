"""Greedy answers that leave the original context of a model with LongRoPE, token for token those of transformers."""

import pytest
import torch
from family_cases.phi3 import CASES, LONG
from test_family_parity import ours_like

from torchtune.generation import decode

PROMPTS = [[5, 17, 23, 40], [11, 8, 9, 30, 41, 52, 63, 74, 85, 6, 7], [90]]
NEW = 20


def their_answers(model: torch.nn.Module, prompts: list[list[int]]) -> list[list[int]]:
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    model.generation_config.eos_token_id = None
    how = {"do_sample": False, "max_new_tokens": NEW, "pad_token_id": 0}
    return model.generate(input_ids=tokens, attention_mask=mask, **how)[:, width:].tolist()


@pytest.mark.parametrize("original", [10, 11, 12, 16, 30, 31])
def test_crossing_the_original_context(original: int) -> None:
    theirs = CASES["128k beyond"]
    config = dict(theirs.config) | {"original_max_position_embeddings": original, "rope_parameters": LONG}
    model = type(theirs)("phi3", "", config).oracle()
    ours = ours_like(model)
    for prompts in (PROMPTS, *([prompt] for prompt in PROMPTS)):
        expected = their_answers(model, prompts)
        assert decode(ours, prompts, max_new_tokens=NEW) == expected
        assert decode(ours, prompts, max_new_tokens=NEW, enable_kv_cache=False) == expected
