"""Greedy answers of a small model to many prompts at once."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchtune import config, training
from torchtune.config.schema import FinetuneConfig
from torchtune.data import AlpacaToMessages, Message
from torchtune.modules import TransformerDecoder
from torchtune.modules.common_utils import local_kv_cache
from torchtune.training.distributed import join
from torchtune.training.model import load_model
from torchtune.utils import get_device


def load_for(cfg: FinetuneConfig, folder: Path | None = None) -> TransformerDecoder:
    """The model of a config with the weights of a checkpoint that its run wrote; None takes those it starts from."""
    checkpointer = config.instantiate(cfg.checkpointer)
    source = checkpointer if folder is None else checkpointer.reading(folder)
    with join(get_device(cfg.device)) as world:
        dtype = training.get_dtype(cfg.dtype, world.device)
        return load_model(partial(config.instantiate, cfg.model), source.weights, world, dtype=dtype).eval()


def prompts_of(rows: Iterable[dict[str, str]]) -> list[list[Message]]:
    """The questions of Alpaca-shaped rows as dialogues that end with the user's message."""
    to_messages = AlpacaToMessages()
    return [to_messages(row)["messages"][:1] for row in rows]


def exact_match(answers: Sequence[str], expected: Sequence[str]) -> float:
    """The share of answers that are what was expected, to the letter."""
    return sum(map(str.__eq__, answers, expected)) / len(expected)


@torch.inference_mode()
def answer(
    model: TransformerDecoder, tokenizer: Any, prompts: Sequence[list[Message]], max_new_tokens: int = 48
) -> list[str]:
    """The likeliest next tokens, one after the other, until the model ends its message; all prompts in one batch."""
    device, dtype = model.tok_embeddings.weight.device, model.tok_embeddings.weight.dtype
    ids = [tokenizer.tokenize_messages(messages, add_end_tokens=False)[0] for messages in prompts]
    tokens, real = (x.to(device) for x in _left_padded(ids, tokenizer.pad_id))
    length = tokens.shape[1] + max_new_tokens
    mask = _causal_mask(real, length)
    stops = torch.tensor(tokenizer.stop_tokens, device=device)
    written: list[Tensor] = []
    ended = torch.zeros(len(ids), dtype=torch.bool, device=device)
    cache = {"batch_size": len(ids), "device": device, "dtype": dtype, "decoder_max_seq_len": length}
    with local_kv_cache(model, **cache):
        start = 0
        while len(written) < max_new_tokens and not ended.all():
            end = start + tokens.shape[1]
            tokens = model(tokens, mask=mask[:, start:end])[:, -1:].argmax(-1)
            written.append(tokens)
            ended |= torch.isin(tokens[:, 0], stops)
            start = end
    return [_text(tokenizer, row) for row in torch.cat(written, dim=1).tolist()]


def _left_padded(ids: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts that all end at the last column, and where they are real, both [B, S].

    Positions then begin later for short prompts, which changes nothing: rotary positions act by their differences.
    """
    width = max(map(len, ids))
    tokens = torch.full((len(ids), width), pad_id)
    for row, prompt in zip(tokens, ids):
        row[width - len(prompt) :] = torch.tensor(prompt)
    starts = torch.tensor([width - len(prompt) for prompt in ids])
    return tokens, torch.arange(width) >= starts[:, None]


def _causal_mask(real: Tensor, length: int) -> Tensor:
    """[B, length, length], True = may look: what came before and is no padding, and itself.

    Padding sees itself as well: a softmax over nothing is NaN, and that would spread through the cached values.
    """
    batch, width = real.shape
    visible = torch.cat([real, real.new_ones(batch, length - width)], dim=1)
    causal = real.new_ones(length, length).tril()
    return causal & visible[:, None, :] | torch.eye(length, dtype=torch.bool, device=real.device)


def _text(tokenizer: Any, ids: list[int]) -> str:
    """The text up to the token that ends the message."""
    ends = [i for i, token in enumerate(ids) if token in tokenizer.stop_tokens]
    return tokenizer.decode(ids[: ends[0]] if ends else ids)
