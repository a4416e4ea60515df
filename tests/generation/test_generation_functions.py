"""The documented functions: what they return, padding, stop tokens, chance, and the cache against the full forward."""

import pytest
import torch

from torchtune.generation import (
    generate,
    generate_next_token,
    get_causal_mask_from_padding_mask,
    get_position_ids_from_padding_mask,
)
from torchtune.modules.common_utils import local_kv_cache

PADDED = torch.tensor([[0, 0, 0, 5, 6], [3, 4, 5, 6, 7]])


def cache(model, positions=20, batch_size=2):
    size = {"batch_size": batch_size, "decoder_max_seq_len": positions}
    return local_kv_cache(model, device=torch.device("cpu"), dtype=torch.float32, **size)


def test_masks_and_positions_of_left_padding():
    padding = torch.tensor([[False, False, True, True], [True, True, True, True]])
    mask = get_causal_mask_from_padding_mask(padding)
    assert mask.int().tolist() == [
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
    ]
    wider = get_causal_mask_from_padding_mask(padding, 6)
    assert torch.equal(wider[:, :, :4], mask) and not wider[:, :, 4:].any() and wider.shape == (2, 4, 6)
    assert get_position_ids_from_padding_mask(padding).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    with pytest.raises(ValueError, match="4 positions"):
        get_causal_mask_from_padding_mask(padding, 3)


@pytest.mark.parametrize("cached", [False, True])
def test_logits_are_those_of_one_forward_over_everything(model, cached):
    prompt = PADDED[1:]
    if cached:
        with cache(model):
            tokens, logits = generate(model, prompt, max_generated_tokens=9, temperature=0)
    else:
        tokens, logits = generate(model, prompt, max_generated_tokens=9, temperature=0)
    with torch.no_grad():
        full = model(tokens)[:, 4:-1]
    assert tokens.shape == (1, 14) and torch.equal(tokens[:, :5], prompt)
    torch.testing.assert_close(logits, full, rtol=1e-4, atol=1e-4)
    assert torch.equal(tokens[:, 5:], full.argmax(-1))


@pytest.mark.parametrize("temperature, top_k, top_p", [(0, None, None), (0.8, None, None), (1.3, 7, 0.9)])
def test_the_cache_changes_nothing_and_is_used_from_its_beginning(model, temperature, top_k, top_p):
    def run():
        how = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "rng": torch.Generator().manual_seed(3)}
        return generate(model, PADDED, max_generated_tokens=12, **how)

    tokens, logits = run()
    with cache(model, batch_size=3):
        for _ in range(2):
            cached_tokens, cached_logits = run()
            assert torch.equal(cached_tokens, tokens)
            torch.testing.assert_close(cached_logits, logits, rtol=1e-4, atol=1e-4)


def test_a_prompt_alone_and_left_padded_in_a_batch(model):
    alone, logits = generate(model, torch.tensor([5, 6]), max_generated_tokens=10, temperature=0)
    batch, batch_logits = generate(model, PADDED, max_generated_tokens=10, temperature=0)
    assert alone[0].tolist() == batch[0, 3:].tolist()
    torch.testing.assert_close(batch_logits[0], logits[0], rtol=1e-4, atol=1e-4)


def test_a_token_inside_a_prompt_is_no_padding(model):
    tokens, _ = generate(model, torch.tensor([5, 0, 6]), max_generated_tokens=4, temperature=0)
    other, _ = generate(model, torch.tensor([5, 0, 6]), max_generated_tokens=4, temperature=0, pad_id=60)
    assert torch.equal(tokens, other)


def test_a_row_ends_with_its_stop_token(model):
    free, free_logits = generate(model, PADDED, max_generated_tokens=10, temperature=0)
    stop = int(free[0, 7])
    assert stop not in free[1, 5:], "the other row must go on for this test to mean anything"
    first = free[0, 5:].tolist().index(stop)
    tokens, logits = generate(model, PADDED, max_generated_tokens=10, temperature=0, stop_tokens=[stop], pad_id=0)
    assert torch.equal(tokens[1], free[1]) and torch.equal(logits[1], free_logits[1])
    assert torch.equal(tokens[0, : 6 + first], free[0, : 6 + first])
    assert not tokens[0, 6 + first :].any() and not logits[0, 1 + first :].any() and logits[0, : 1 + first].any()
    every = [stop, int(free[1, 6])]
    tokens, logits = generate(model, PADDED, max_generated_tokens=10, temperature=0, stop_tokens=every)
    assert tokens.shape[1] - 5 == logits.shape[1] < 10


def test_the_same_generator_gives_the_same_tokens(model):
    def run(seed):
        return generate(model, PADDED, max_generated_tokens=15, rng=torch.Generator().manual_seed(seed))[0]

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))


@pytest.mark.parametrize("name", ["custom_generate_next_token", "compiled_generate_next_token"])
def test_a_step_of_ones_own_makes_all_tokens_but_the_first(model, name):
    calls = []

    def step(model, input_pos, x, q=None, *, mask=None, temperature=1.0, top_k=None):
        calls.append((tuple(x.shape), tuple(input_pos.shape), tuple(mask.shape), tuple(q.shape)))
        return generate_next_token(model, input_pos, x, q, mask=mask, temperature=temperature, top_k=top_k)

    def run(**more):
        return generate(model, PADDED, max_generated_tokens=6, rng=torch.Generator().manual_seed(0), **more)[0]

    with cache(model):
        assert torch.equal(run(**{name: step}), run())
    assert calls == [((2, 1), (2, 1), (2, 1, 20), (2, 61))] * 5


@pytest.mark.parametrize("cached", [False, True])
def test_too_many_tokens_are_refused_at_once(model, cached):
    if not cached:
        with pytest.raises(ValueError, match="49 positions are needed, but the model has 48"):
            generate(model, PADDED, max_generated_tokens=45)
        return
    with cache(model), pytest.raises(ValueError, match="21 positions are needed, but the caches have 20"):
        generate(model, PADDED, max_generated_tokens=17)


def test_the_next_token_of_a_prompt(model):
    positions = torch.arange(5).expand(2, -1)
    with torch.no_grad():
        token, logits = generate_next_token(model, positions, PADDED, temperature=0)
        full = model(PADDED)[:, -1:]
    torch.testing.assert_close(logits, full)
    assert torch.equal(token, full.argmax(-1)) and not model.skip_output_layer
