"""Keys and values of the tokens seen so far, for generation."""

import torch
from torch import Tensor, nn


class KVCache(nn.Module):
    """Fixed-size store of keys and values, each [B, K, max_seq_len, H], filled from the left.

    How far it is filled is a tensor, so that the step that adds one token is the same graph every time.

    Args:
        batch_size: B, the largest batch the cache serves.
        max_seq_len: positions per sequence.
    """

    def __init__(self, batch_size: int, max_seq_len: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        shape = (batch_size, num_kv_heads, max_seq_len, head_dim)
        self.register_buffer("k_cache", torch.zeros(shape, dtype=dtype), persistent=False)
        self.register_buffer("v_cache", torch.zeros(shape, dtype=dtype), persistent=False)
        self.register_buffer("filled", torch.zeros((), dtype=torch.long), persistent=False)
        self.batch_size, self.max_seq_len = batch_size, max_seq_len

    @property
    def size(self) -> int:
        """Number of positions filled."""
        return int(self.filled)

    def reset(self) -> None:
        """Forget everything; the memory is kept."""
        self.k_cache.zero_()
        self.v_cache.zero_()
        self.filled.zero_()

    def next_slots(self, count: int) -> Tensor:
        """The positions [count] that the next ``count`` tokens will fill."""
        return self.filled + torch.arange(count, device=self.filled.device)

    def update(self, k_val: Tensor, v_val: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, K, S, H] and give the whole caches, unfilled positions being zero.

        Raises:
            ValueError: a batch larger than the cache's, or more positions than are left; on a GPU, where looking would
                mean to wait for it, the second is torch's to find.
        """
        batch, _, new, _ = k_val.shape
        if batch > self.batch_size:
            raise ValueError(f"the cache was set up for a batch of {self.batch_size}, but got {batch} sequences")
        if self.filled.device.type == "cpu" and not torch.compiler.is_compiling():
            self._check_room(new)
        k, v, slots = self.k_cache[:batch], self.v_cache[:batch], self.next_slots(new)
        k.index_copy_(2, slots, k_val)
        v.index_copy_(2, slots, v_val)
        self.filled += new
        return k, v

    def _check_room(self, new: int) -> None:
        if self.size + new > self.max_seq_len:
            needed = self.size + new
            raise ValueError(f"{needed} positions are needed, but the cache was set up for {self.max_seq_len}")
