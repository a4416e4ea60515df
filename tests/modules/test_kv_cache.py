"""The cache of keys and values: what it holds, how far it is filled, what it refuses."""

import pytest
import torch

from torchtune.modules import KVCache


def cache():
    return KVCache(batch_size=2, max_seq_len=5, num_kv_heads=3, head_dim=4, dtype=torch.float32)


def values(batch, count):
    return torch.randn(batch, 3, count, 4), torch.randn(batch, 3, count, 4)


def test_is_filled_from_the_left():
    made, (k1, v1), (k2, v2) = cache(), values(2, 3), values(2, 1)
    assert made.next_slots(2).tolist() == [0, 1]
    made.update(k1, v1)
    k, v = made.update(k2, v2)
    assert made.size == 4 and made.next_slots(1).tolist() == [4]
    assert torch.equal(k[:, :, :4], torch.cat([k1, k2], 2)) and torch.equal(v[:, :, :4], torch.cat([v1, v2], 2))
    assert not k[:, :, 4:].any()
    made.reset()
    assert made.size == 0 and not made.k_cache.any() and made.state_dict() == {}


def test_serves_a_smaller_batch():
    made = cache()
    k, _ = made.update(*values(1, 2))
    assert k.shape == (1, 3, 5, 4) and not made.k_cache[1].any()


def test_refuses_what_does_not_fit():
    made = cache()
    with pytest.raises(ValueError, match="batch of 2, but got 3"):
        made.update(*values(3, 1))
    made.update(*values(2, 4))
    with pytest.raises(ValueError, match="6 positions are needed, but the cache was set up for 5"):
        made.update(*values(2, 2))
    assert made.size == 4
