"""Grouped-query attention with rotary positions and a key-value cache."""

import torch
from torch import Tensor, nn

from torchtune.modules.attention_utils import Documents, attend
from torchtune.modules.kv_cache import KVCache


class MultiHeadAttention(nn.Module):
    """Multi-head, grouped-query (https://arxiv.org/abs/2305.13245) or multi-query attention, [B, S, D] -> [B, S, D].

    Every projection is a part that the caller passes in.

    Args:
        embed_dim: D.
        num_kv_heads: K, heads of keys and values; ``num_heads`` is a multiple of it.
        q_norm: applied to each query head, and ``k_norm`` to each key head, before the positions.
        max_seq_len: longest sequence, in tokens.
        is_causal: without a mask, a token sees itself and those before it.
        attn_dropout: share of attention weights dropped in training.
        window: keys a query sees, itself included, whatever the mask says; None for all.
        softcap: scores become ``softcap * tanh(score / softcap)``.
        scale: multiplies the scores; None means ``head_dim ** -0.5``.
        sinks: a score for each head, [num_heads], of a key that has no value, so that a query may look at nothing.

    Raises:
        ValueError: head counts or dimensions that do not fit each other, or a dropout outside [0, 1].
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        q_proj: nn.Module,
        k_proj: nn.Module,
        v_proj: nn.Module,
        output_proj: nn.Module,
        pos_embeddings: nn.Module | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        kv_cache: KVCache | None = None,
        max_seq_len: int = 4096,
        is_causal: bool = True,
        attn_dropout: float = 0.0,
        window: int | None = None,
        softcap: float | None = None,
        scale: float | None = None,
        sinks: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        if num_heads % num_kv_heads:
            raise ValueError(f"num_heads ({num_heads}) must be a multiple of num_kv_heads ({num_kv_heads})")
        if not 0 <= attn_dropout <= 1:
            raise ValueError(f"attn_dropout must be between 0 and 1, not {attn_dropout}")
        if (q_norm is None) != (k_norm is None):
            raise ValueError("q_norm and k_norm go together: give both or neither")
        self.embed_dim, self.num_heads, self.num_kv_heads, self.head_dim = embed_dim, num_heads, num_kv_heads, head_dim
        self.q_proj, self.k_proj, self.v_proj, self.output_proj = q_proj, k_proj, v_proj, output_proj
        self.pos_embeddings, self.q_norm, self.k_norm = pos_embeddings, q_norm, k_norm
        self.kv_cache, self.cache_enabled = kv_cache, kv_cache is not None
        self.max_seq_len, self.is_causal, self.attn_dropout = max_seq_len, is_causal, attn_dropout
        self.window, self.softcap, self.scale, self.sinks = window, softcap, scale, sinks

    def setup_cache(self, batch_size: int, dtype: torch.dtype, max_seq_len: int) -> None:
        """Give this layer a key-value cache; a second call keeps the one there is."""
        if self.kv_cache is None:
            self.kv_cache = KVCache(batch_size, max_seq_len, self.num_kv_heads, self.head_dim, dtype)
        self.cache_enabled = True

    def reset_cache(self) -> None:
        """Empty the cache.

        Raises:
            RuntimeError: there is none.
        """
        if self.kv_cache is None:
            raise RuntimeError("there is no key-value cache to reset; call setup_caches first")
        self.kv_cache.reset()

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        mask: Tensor | Documents | None = None,
        input_pos: Tensor | None = None,
    ) -> Tensor:
        """Attend from x [B, S, D] to y [B, T, D].

        Args:
            y: what keys and values are made of; None means x itself, or, for non-causal attention with a cache, what
                the cache holds.
            mask: bool [B, S, T], True = may look; or the documents in the rows of x.
            input_pos: each token's position, [B, S].
        """
        B, S, _ = x.shape
        slots = self.kv_cache.next_slots(S) if self._caching and self.is_causal else None
        if input_pos is None:
            input_pos = slots
        q = self._queries(x, input_pos)
        reuse_cached = y is None and self._caching and not self.is_causal
        k, v = self._keys_and_values(None if reuse_cached else x if y is None else y, input_pos)
        if isinstance(mask, Documents):
            out = self._attend_each(mask, q, k, v)
        else:
            if self.is_causal:
                mask = self._visible(mask, slots, S, k.shape[2], x.device, input_pos)
            out = self._attend(q, k, v, mask)
        return self.output_proj(out.transpose(1, 2).reshape(B, S, -1))

    def _attend_each(self, documents: Documents, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As :meth:`_attend`, over each document of each row for itself."""
        rows = []
        for lengths, *row in zip(documents.lengths, q.split(1), k.split(1), v.split(1), strict=True):
            pieces = zip(*(x.split(lengths, dim=2) for x in row), strict=True)
            seen = (self._visible(None, None, length, length, q.device) for length in lengths)
            rows.append(torch.cat([self._attend(*piece, mask) for piece, mask in zip(pieces, seen)], dim=2))
        return torch.cat(rows)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q [B, N, S, H] over k, v [B, K, T, H] -> [B, N, S, H]."""
        return attend(
            q,
            k,
            v,
            mask=mask,
            is_causal=self.is_causal,
            scale=self.scale,
            softcap=self.softcap,
            sinks=self.sinks,
            dropout_p=self.attn_dropout if self.training else 0.0,
        )

    def _queries(self, x: Tensor, input_pos: Tensor | None) -> Tensor:
        """[B, S, D] -> queries [B, N, S, H]."""
        q = self.q_proj(x).view(*x.shape[:2], -1, self.head_dim)
        return self._placed(q, self.q_norm, input_pos).transpose(1, 2)

    def _placed(self, heads: Tensor, norm: nn.Module | None, input_pos: Tensor | None) -> Tensor:
        """Queries or keys [B, S, N, H], normalised and then turned by their positions."""
        if norm is not None:
            heads = norm(heads)
        return heads if self.pos_embeddings is None else self.pos_embeddings(heads, input_pos=input_pos)

    @property
    def _caching(self) -> bool:
        return self.kv_cache is not None and self.cache_enabled

    def _keys_and_values(self, source: Tensor | None, input_pos: Tensor | None) -> tuple[Tensor, Tensor]:
        """[B, T, D] -> keys and values [B, K, T, H]; with None, what the cache holds."""
        if source is None:
            return self.kv_cache.k_cache, self.kv_cache.v_cache
        B, T, _ = source.shape
        k = self.k_proj(source).view(B, T, -1, self.head_dim)
        v = self.v_proj(source).view(B, T, -1, self.head_dim)
        k, v = self._placed(k, self.k_norm, input_pos).transpose(1, 2), v.transpose(1, 2)
        return self.kv_cache.update(k, v) if self._caching else (k, v)

    def _visible(
        self,
        mask: Tensor | None,
        slots: Tensor | None,
        S: int,
        T: int,
        device: torch.device,
        input_pos: Tensor | None = None,
    ) -> Tensor | None:
        """The mask with causality where there is none, and with the window; None where causality says it all.

        Distances are between places in the row, which within a document are those between positions.

        Args:
            slots: the places [S] of the queries among the keys; None: the last of them.
        """
        windowed = self.window is not None and self.window < T
        if not windowed and (mask is not None or slots is None):
            return mask
        query = torch.arange(T - S, T, device=device) if slots is None else slots
        ahead = query[:, None] - torch.arange(T, device=device)
        if mask is None:
            mask = ahead >= 0
        return mask & (ahead < self._reach(query if input_pos is None else input_pos)) if windowed else mask

    def _reach(self, positions: Tensor) -> int | Tensor:
        """The keys that queries at these positions [..., S] see, themselves included; one number or [..., S, 1]."""
        return self.window
