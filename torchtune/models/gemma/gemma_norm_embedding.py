"""Gemma's token embedding."""

from typing import Any

import torch
from torch import Tensor, nn


class GemmaNormEmbeddings(nn.Embedding):
    """Embedding times the square root of its width, tokens [B, S] -> [B, S, D]."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_embeddings, embedding_dim, *args, **kwargs)

    def forward(self, tokens: Tensor) -> Tensor:
        x = super().forward(tokens)
        # The model was trained with the factor rounded to the dtype: https://github.com/huggingface/transformers/pull/29402
        return x * torch.tensor(self.embedding_dim**0.5, dtype=x.dtype)
