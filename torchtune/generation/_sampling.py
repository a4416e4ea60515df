"""From logits to the next token."""

import torch
from torch import Tensor


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    q: Tensor | None = None,
    top_p: float | None = None,
) -> Tensor:
    """One token id of each row of logits [..., V]: [..., 1].

    Drawn as ``argmax(p / q)``, which has the distribution p when q is exponential (the Gumbel-max trick,
    https://arxiv.org/abs/1411.0030): all chance is in q, and the rest is one graph.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: only this many of the likeliest tokens are drawn from; None for all.
        q: samples of Exp(1), [..., V]; None draws them.
        top_p: only the likeliest tokens whose probabilities first sum up to this are drawn from
            (https://arxiv.org/abs/1904.09751), after ``top_k``; None for all.
    """
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    scores = truncated(logits / temperature, top_k, top_p)
    if q is None:
        q = torch.empty_like(scores).exponential_(1)
    return (scores - q.clamp(min=torch.finfo(q.dtype).tiny).log()).argmax(-1, keepdim=True)


def truncated(scores: Tensor, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Scores [..., V] with -inf for tokens that are not to be drawn; for the arguments see :func:`sample`."""
    if top_k is not None:
        least = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < least, float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, order = scores.sort(dim=-1, descending=True)
        p = ordered.softmax(-1)
        beyond = p.cumsum(-1) - p >= top_p  # what is likelier sums up to top_p already
        scores = scores.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), float("-inf"))
    return scores
