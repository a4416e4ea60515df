"""The decoder layer that looks at another sequence, such as an encoded image."""

from typing import Any

import torch
from torch import Tensor, nn

from torchtune.modules.attention import MultiHeadAttention


class TransformerCrossAttentionLayer(nn.Module):
    """Pre-norm layer: ``h = x + ca_scale(attn(ca_norm(x), encoder_input))``, then the same around the feed-forward.

    A token that may look at nothing of the encoder passes unchanged, through both parts.

    Args:
        attn: without positional embeddings, since queries and keys belong to different sequences.
        ca_scale: applied to the attention's output before it is added; None for none. Likewise ``mlp_scale``.

    Raises:
        ValueError: ``attn`` has positional embeddings.
    """

    def __init__(
        self,
        attn: MultiHeadAttention,
        mlp: nn.Module,
        *,
        ca_norm: nn.Module | None = None,
        mlp_norm: nn.Module | None = None,
        ca_scale: nn.Module | None = None,
        mlp_scale: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if attn.pos_embeddings is not None:
            raise ValueError("cross-attention takes no positional embeddings: queries and keys are different sequences")
        self.attn, self.mlp = attn, mlp
        self.ca_norm, self.mlp_norm = ca_norm or nn.Identity(), mlp_norm or nn.Identity()
        self.ca_scale, self.mlp_scale = ca_scale or nn.Identity(), mlp_scale or nn.Identity()

    def setup_caches(
        self, batch_size: int, dtype: torch.dtype, *, encoder_max_seq_len: int, decoder_max_seq_len: int | None
    ) -> None:
        """Give the attention a cache of ``encoder_max_seq_len`` positions for the encoder's keys and values."""
        self.attn.setup_cache(batch_size, dtype, encoder_max_seq_len)

    def caches_are_setup(self) -> bool:
        """True when there is a cache, enabled or not."""
        return self.attn.kv_cache is not None

    def caches_are_enabled(self) -> bool:
        """True when there is a cache and forward uses it."""
        return self.caches_are_setup() and self.attn.cache_enabled

    def reset_cache(self) -> None:
        """Forget the encoder's keys and values."""
        self.attn.reset_cache()

    def forward(
        self, x: Tensor, *, encoder_input: Tensor | None = None, encoder_mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Look from x [B, S, D] at the encoder's output; gives [B, S, D].

        Args:
            encoder_input: [B, T, D]; None means what the cache holds, or, without one, that x passes unchanged.
            encoder_mask: bool [B, S, T], True = may look; None is all.
            kwargs: lets a decoder pass the same inputs to all its layers; not read.
        """
        if encoder_input is None and not (self.caches_are_enabled() and self.attn.kv_cache.size):
            return x
        sees_something = None if encoder_mask is None else encoder_mask.any(dim=-1, keepdim=True)
        if encoder_mask is not None:
            # A softmax over nothing is NaN: such rows look everywhere, and their results are dropped below.
            encoder_mask = encoder_mask | ~sees_something
        h = x + self._kept(self.ca_scale(self.attn(self.ca_norm(x), encoder_input, mask=encoder_mask)), sees_something)
        return h + self._kept(self.mlp_scale(self.mlp(self.mlp_norm(h))), sees_something)

    @staticmethod
    def _kept(update: Tensor, rows: Tensor | None) -> Tensor:
        return update if rows is None else torch.where(rows, update, 0.0)
