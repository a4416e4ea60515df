"""Attention masks, and the choice of the kernel that computes attention."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Below this length the plain form is faster than torch's fused CPU kernel in bf16, whose backward is slow for
# short sequences (measured: docs/performance.md).
_PLAIN_MAX_SEQ_LEN = 256


@dataclass(frozen=True)
class Documents:
    """Where rows that hold several documents are cut, in place of a mask: no document sees another.

    Attention then runs over each document for itself, which on the CPU takes a fraction of the time of a masked row.

    Args:
        lengths: of each row the lengths of its documents, in tokens; they sum to S.
    """

    lengths: tuple[tuple[int, ...], ...]

    def to(self, device: torch.device) -> "Documents | Tensor":
        """What attention wants on a device: these cuts on the CPU, a mask bool [B, S, S] elsewhere."""
        return self if device.type == "cpu" else self.mask(device)

    def mask(self, device: torch.device) -> Tensor:
        """Who may look at whom, bool [B, S, S]."""
        return create_block_causal_mask([torch.tensor(lengths, device=device) for lengths in self.lengths])


def create_block_causal_mask(seq_lens: list[Tensor]) -> Tensor:
    """Which earlier tokens of its own document each token may look at, [B, S, S] bool, True = may look.

    Args:
        seq_lens: for each pack the lengths of its documents; they sum to S.
    """
    masks = []
    for lens in seq_lens:
        document = torch.repeat_interleave(torch.arange(len(lens), device=lens.device), lens)
        masks.append((document[:, None] == document).tril())
    return torch.stack(masks)


def packed_block_causal_mask(seq_lens: list[Tensor]) -> Tensor:
    """The mask a packed batch needs, [B, S, S] bool; see :func:`create_block_causal_mask`."""
    return create_block_causal_mask(seq_lens)


def causal_mask_flex(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Causality as flex attention's ``mask_mod`` wants it."""
    return q_idx >= kv_idx


def kv_offset_mask_flex(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, offset: int) -> Tensor:
    """Causality for queries that stand ``offset`` tokens behind the first key."""
    return q_idx + offset >= kv_idx


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Softmax attention, q [B, N, S, H] over k, v [B, K, T, H] -> [B, N, S, H]; N is a multiple of K.

    Args:
        mask: bool [B, S, T] or [S, T], True = may look; None leaves ``is_causal`` to decide.
        scale: multiplies the scores; None means H ** -0.5.
        softcap: scores become ``softcap * tanh(score / softcap)``.
        sinks: a score for each head, [N], of a key that has no value, so that a query may look at nothing.
    """
    if mask is not None:
        is_causal = False
        mask = mask[:, None] if mask.dim() == 3 else mask
    plain = q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[2] <= _PLAIN_MAX_SEQ_LEN
    if softcap is not None or sinks is not None or plain:
        return _plain_attention(q, k, v, mask, is_causal, scale or q.shape[-1] ** -0.5, softcap, sinks, dropout_p)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout_p,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
    dropout_p: float,
) -> Tensor:
    """Attention as two matrix products; the queries that share a key head are folded into its rows."""
    B, N, S, H = q.shape
    K, T = k.shape[1:3]
    scores = ((q * scale).reshape(B, K, N // K * S, H) @ k.transpose(-2, -1)).view(B, K, N // K, S, T)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if is_causal:
        mask = torch.ones(S, T, dtype=torch.bool, device=q.device).tril(T - S)
    if mask is not None:
        scores = scores.masked_fill(~(mask.unsqueeze(2) if mask.dim() == 4 else mask), float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype).view(1, K, N // K, 1, 1).expand(B, -1, -1, S, 1)], dim=-1)
    weights = scores.softmax(-1)[..., :T]
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    return (weights.reshape(B, K, N // K * S, T) @ v).view(B, N, S, H)
