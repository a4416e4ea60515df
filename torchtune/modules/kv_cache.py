"""Keys and values of the tokens seen so far, for generation."""

import torch
from torch import Tensor, nn


class KVCache(nn.Module):
    """Fixed-size store of keys and values, each [B, K, max_seq_len, H], filled from the left.

    Args:
        batch_size: B, the largest batch the cache serves.
        max_seq_len: positions per sequence.
    """

    def __init__(self, batch_size: int, max_seq_len: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        shape = (batch_size, num_kv_heads, max_seq_len, head_dim)
        self.register_buffer("k_cache", torch.zeros(shape, dtype=dtype), persistent=False)
        self.register_buffer("v_cache", torch.zeros(shape, dtype=dtype), persistent=False)
        self.batch_size, self.max_seq_len = batch_size, max_seq_len
        self._filled = 0

    @property
    def size(self) -> int:
        """Number of positions filled."""
        return self._filled

    def reset(self) -> None:
        """Forget everything; the memory is kept."""
        self.k_cache.zero_()
        self.v_cache.zero_()
        self._filled = 0

    def update(self, k_val: Tensor, v_val: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, K, S, H] and give the whole caches, unfilled positions being zero.

        Raises:
            ValueError: a batch larger than the cache's, or more positions than are left.
        """
        batch, _, new, _ = k_val.shape
        if batch > self.batch_size:
            raise ValueError(f"the cache was set up for a batch of {self.batch_size}, but got {batch} sequences")
        end = self._filled + new
        if end > self.max_seq_len:
            raise ValueError(f"{end} positions are needed, but the cache was set up for {self.max_seq_len}")
        self.k_cache[:batch, :, self._filled : end] = k_val
        self.v_cache[:batch, :, self._filled : end] = v_val
        self._filled = end
        return self.k_cache[:batch], self.v_cache[:batch]
