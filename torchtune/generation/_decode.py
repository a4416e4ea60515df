"""Lists of token ids in, lists of token ids out: a batch of prompts of different lengths, each up to its own end."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch

from torchtune.errors import DataError
from torchtune.generation._generation import Step, generate_next_token, next_tokens
from torchtune.generation._masks import left_pad
from torchtune.modules import TransformerDecoder
from torchtune.modules.common_utils import local_kv_cache


def decode(
    model: TransformerDecoder,
    prompts: Sequence[Sequence[int]],
    *,
    stop_tokens: Collection[int] = (),
    ends: Callable[[list[int]], bool] | None = None,
    **options: Any,
) -> list[list[int]]:
    """What the model writes after each prompt: new tokens only, with the stop token that ended them.

    Args:
        stop_tokens: the first of these ends an answer; generation stops when all have ended.
        ends: told the new tokens of a prompt after each of them, says whether they are enough.
        options: ``max_new_tokens``, ``temperature`` and the like; see :func:`stream`.

    Raises:
        DataError: a prompt is empty, or longer than the model and ``max_new_tokens`` leave room for.
    """
    written: list[list[int]] = [[] for _ in prompts]
    going = set(range(len(prompts)))
    for step in stream(model, prompts, **options):
        for row in sorted(going):
            written[row].append(step[row])
            if step[row] in stop_tokens or (ends is not None and ends(written[row])):
                going.remove(row)
        if not going:
            break
    return written


@torch.inference_mode()
def stream(
    model: TransformerDecoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    pad_id: int = 0,
    enable_kv_cache: bool = True,
    cache_tokens: int | None = None,
    compile: bool = False,
) -> Iterator[list[int]]:
    """The next token of every prompt, as soon as there is one.

    Args:
        max_new_tokens: per prompt.
        temperature, top_k, top_p: see :func:`sample`; a temperature of 0 is greedy.
        generator: the source of chance, on the model's device; None is torch's own.
        pad_id: fills short prompts on the left; any token will do, since it is not looked at.
        enable_kv_cache: False computes everything anew for each token, which only serves comparison.
        cache_tokens: positions of the cache, at least those of the longest prompt and its answer; one number for
            several calls gives all the same shapes. None is as many as are needed.
        compile: make one graph of the step that adds a token.

    Raises:
        DataError: as :func:`decode`.
    """
    check_prompts(model, prompts, max_new_tokens)
    weight = model.tok_embeddings.weight
    tokens, padding_mask = left_pad(prompts, pad_id, weight.device)
    caches = nullcontext()
    if enable_kv_cache:
        size = {"batch_size": len(prompts), "decoder_max_seq_len": cache_tokens or tokens.shape[1] + max_new_tokens}
        caches = local_kv_cache(model, device=weight.device, dtype=weight.dtype, **size)
    with caches:
        steps = next_tokens(
            model,
            tokens,
            padding_mask,
            max_new_tokens=max_new_tokens,
            rng=generator,
            step=_compiled_step() if compile else generate_next_token,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        for new, _ in steps:
            yield new[:, 0].tolist()


def check_prompts(model: TransformerDecoder, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raises DataError unless each prompt has a token, and positions are left for its answer."""
    lengths = list(map(len, prompts))
    if not lengths or min(lengths) == 0:
        raise DataError(f"{'a prompt is empty' if lengths else 'there is no prompt'}; generation begins after a token")
    needed = max(lengths) + max_new_tokens - 1
    if needed > model.max_seq_len:
        left = model.max_seq_len - max(lengths) + 1
        advice = f"set max_new_tokens to at most {left}" if left > 0 else "shorten the prompt"
        raise DataError(
            f"a prompt of {max(lengths)} tokens and {max_new_tokens} new ones need {needed} positions, but the model "
            f"has {model.max_seq_len}; {advice}"
        )


@cache
def _compiled_step() -> Step:
    # CUDA graphs: a step of one token is so short that starting its kernels one by one takes longer than running them.
    return torch.compile(generate_next_token, fullgraph=True, dynamic=False, mode="reduce-overhead")
