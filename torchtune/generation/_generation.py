"""The generation loop: one step, all steps, and torchtune's documented function over tensors."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchtune.generation._masks import get_causal_mask_from_padding_mask, get_position_ids_from_padding_mask
from torchtune.generation._sampling import sample
from torchtune.modules import TransformerDecoder
from torchtune.modules.scaled_rope import LongRoPE

Step = Callable[..., tuple[Tensor, Tensor]]
"""Takes what :func:`generate_next_token` takes, and gives the same."""


def generate_next_token(
    model: TransformerDecoder,
    input_pos: Tensor,
    x: Tensor,
    q: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The token after each row of x, [B, 1], and the logits it was drawn from, [B, 1, V].

    Args:
        input_pos: each token's position, [B, S].
        x: tokens, [B, S].
        q: see :func:`sample`, [B, V]; likewise ``temperature``, ``top_k`` and ``top_p``.
        mask: bool [B, S, T], True = may look; None is causal.
    """
    logits = _last_logits(model, x, mask=mask, input_pos=input_pos)
    return sample(logits[:, -1], temperature=temperature, top_k=top_k, q=q, top_p=top_p), logits


def _last_logits(model: TransformerDecoder, x: Tensor, **inputs: Tensor | None) -> Tensor:
    """[B, 1, V]; those of a whole prompt can take more memory than the model."""
    if x.shape[1] == 1:
        return model(x, **inputs)
    model.skip_output_layer = True
    try:
        return model.project(model(x, **inputs)[:, -1:]).float()
    finally:
        model.skip_output_layer = False


def next_tokens(
    model: TransformerDecoder,
    prompt: Tensor,
    padding_mask: Tensor,
    *,
    max_new_tokens: int,
    rng: torch.Generator | None = None,
    step: Step = generate_next_token,
    **sampling: Any,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each next token [B, 1] and its logits [B, 1, V]; with key-value caches when the model has them.

    Args:
        prompt: tokens [B, S], padded on the left.
        padding_mask: [B, S], True for tokens, False for padding.
        step: what makes all tokens but the first; with caches its inputs have the same shapes every time.
        sampling: temperature, top_k and top_p; see :func:`sample`.

    Raises:
        ValueError: more tokens than the model or its caches have positions for.
    """
    cached = model.caches_are_enabled()
    room = model.decoder_max_cache_seq_len if cached else model.max_seq_len
    needed = prompt.shape[1] + max_new_tokens - 1
    if needed > room:
        raise ValueError(
            f"{needed} positions are needed, but {'the caches have' if cached else 'the model has'} {room}"
        )
    tokens = new = prompt
    begins = _beginnings(model, padding_mask)
    for number in range(max_new_tokens):
        if number in begins or not cached:
            if cached:
                model.reset_caches()
            seen = torch.nn.functional.pad(padding_mask, (0, number), value=True)
            x, positions = tokens, get_position_ids_from_padding_mask(seen)
            mask = get_causal_mask_from_padding_mask(seen, room if cached else None)
        else:
            x, positions, mask = new, positions[:, -1:] + 1, mask[:, -1:].clone()
            mask[:, :, tokens.shape[1] - 1] = True
        q = _noise(model, len(prompt), rng) if sampling.get("temperature") != 0 else None
        take = generate_next_token if number in begins else step
        new, logits = take(model, input_pos=positions, x=x, q=q, mask=mask, **sampling)
        new = new.clone()  # a compiled step may write its next result to the same place
        tokens = torch.cat([tokens, new], dim=1)
        yield new, logits


def _beginnings(model: TransformerDecoder, padding_mask: Tensor) -> set[int]:
    """Numbers of the new tokens before which all that there is is computed anew: the first, and with LongRoPE the one
    that is beyond the original context, where the angles of all tokens change.
    """
    longest = int(padding_mask.sum(dim=-1).max())
    limits = {m.original_max_position_embeddings for m in model.modules() if isinstance(m, LongRoPE)}
    return {0, *(limit + 1 - longest for limit in limits if longest <= limit)}


def _noise(model: TransformerDecoder, batch_size: int, rng: torch.Generator | None) -> Tensor:
    weight = model.tok_embeddings.weight
    return torch.empty(batch_size, weight.shape[0], device=weight.device).exponential_(1, generator=rng)


@torch.no_grad()
def generate(
    model: TransformerDecoder,
    prompt: Tensor,
    *,
    max_generated_tokens: int,
    pad_id: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop_tokens: list[int] | None = None,
    rng: torch.Generator | None = None,
    custom_generate_next_token: Step | None = None,
    compiled_generate_next_token: Step | None = None,
    top_p: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Prompts with what the model goes on to write, [B, S + n], and the logits of what it wrote, [B, n, V].

    Ends when every row has met a stop token, so n may be less than ``max_generated_tokens``. A model with key-value
    caches uses them, from their beginning.

    Args:
        prompt: tokens [B, S] or [S], padded on the left.
        pad_id: what stands before the first token of a short prompt, and after a stop token, where logits are 0.
        temperature, top_k, top_p: see :func:`sample`.
        stop_tokens: a row ends with the first of these, which is kept.
        rng: the source of chance, on the model's device; None is torch's own.
        custom_generate_next_token: makes all tokens but the first in place of :func:`generate_next_token`, with the
            same arguments, for example compiled; ``compiled_generate_next_token`` is another name of it.

    Raises:
        ValueError: more tokens than the model or its caches have positions for.
    """
    prompt = prompt[None] if prompt.dim() == 1 else prompt
    sampling = {"temperature": temperature, "top_k": top_k} | ({} if top_p is None else {"top_p": top_p})
    steps = next_tokens(
        model,
        prompt,
        (prompt != pad_id).cumsum(-1) > 0,
        max_new_tokens=max_generated_tokens,
        rng=rng,
        step=custom_generate_next_token or compiled_generate_next_token or generate_next_token,
        **sampling,
    )
    stops = torch.tensor(stop_tokens or [], dtype=torch.long, device=prompt.device)
    ended = torch.zeros(len(prompt), 1, dtype=torch.bool, device=prompt.device)
    tokens, all_logits = [prompt], []
    for new, logits in steps:
        tokens.append(new.masked_fill(ended, pad_id))
        all_logits.append(logits.masked_fill(ended[..., None], 0))
        ended |= torch.isin(new, stops)
        if stop_tokens and ended.all():
            break
    return torch.cat(tokens, dim=1), torch.cat(all_logits, dim=1)
