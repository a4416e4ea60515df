"""Rotary positions for contexts longer than the one a model was first trained on; Llama 3's is beside the base class.

The names of the numbers are those of ``rope_parameters`` in a Hugging Face ``config.json``
(https://huggingface.co/docs/transformers/main/en/internal/rope_utils).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchtune.modules.position_embeddings import RotaryPositionalEmbeddings


class LinearScaledRoPE(RotaryPositionalEmbeddings):
    """RoPE in which every pair turns ``factor`` times slower (https://arxiv.org/abs/2306.15595)."""

    def __init__(
        self, dim: int, max_seq_len: int = 4096, base: float = 10_000, *, factor: float, interleaved: bool = True
    ) -> None:
        self.factor = factor
        super().__init__(dim, max_seq_len, base, interleaved=interleaved)

    def frequencies(self) -> Tensor:
        return super().frequencies() / self.factor


class YaRNScaledRoPE(RotaryPositionalEmbeddings):
    """RoPE whose slow pairs turn ``factor`` times slower, with a ramp to the fast ones (https://arxiv.org/abs/2309.00071).

    Args:
        original_max_position_embeddings: tokens of the context that is extended.
        attention_factor: multiplies what turns; None derives it from ``factor`` (equation 22), and from ``mscale`` and
            ``mscale_all_dim`` where both are given: their ratio, as DeepSeek has it.
        beta_fast: pairs that make at least so many turns in the original context keep their speed, and those with at
            most ``beta_slow`` turns are slowed in full.
        truncate: the ramp begins and ends at whole pairs.
    """

    def __init__(
        self,
        dim: int,
        max_seq_len: int = 4096,
        base: float = 10_000,
        *,
        factor: float,
        original_max_position_embeddings: int,
        attention_factor: float | None = None,
        beta_fast: float = 32,
        beta_slow: float = 1,
        mscale: float | None = None,
        mscale_all_dim: float | None = None,
        truncate: bool = True,
        interleaved: bool = True,
    ) -> None:
        self.factor, self.original_max_position_embeddings = factor, original_max_position_embeddings
        self.beta_fast, self.beta_slow, self.truncate = beta_fast, beta_slow, truncate
        if attention_factor is None:
            both = mscale and mscale_all_dim
            attention_factor = _mscale(factor, mscale) / _mscale(factor, mscale_all_dim) if both else _mscale(factor)
        self.magnitude = attention_factor
        super().__init__(dim, max_seq_len, base, interleaved=interleaved)

    def frequencies(self) -> Tensor:
        freqs = super().frequencies()
        first, last = self._pair_with_turns(self.beta_fast), self._pair_with_turns(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, self.dim - 1)
        width = last - first or 0.001
        slowed = ((torch.arange(self.dim // 2) - first) / width).clamp(0, 1)
        return freqs * (1 - slowed) + freqs / self.factor * slowed

    def _pair_with_turns(self, turns: float) -> float:
        """The number of the pair, counted from the fastest, that turns so often in the original context."""
        wavelength = self.original_max_position_embeddings / turns
        return self.dim * math.log(wavelength / (2 * math.pi)) / (2 * math.log(self.base))


def _mscale(factor: float, weight: float = 1) -> float:
    return 1 + 0.1 * weight * math.log(factor) if factor > 1 else 1.0


class DynamicScaledRoPE(RotaryPositionalEmbeddings):
    """RoPE whose base grows with the largest position of a call, once that is beyond the original context.

    "NTK-aware" scaling: the slowest pair is slowed as the context is extended, the fastest is not
    (https://arxiv.org/abs/2309.00071, 3.1 and 3.3).

    Args:
        factor: the slowest pair turns ``factor`` times slower for each further length of the original context.
        original_max_position_embeddings: tokens of the context that is extended; None is ``max_seq_len``.
    """

    max_cached_positions = 0  # a position's angle depends on the others

    def __init__(
        self,
        dim: int,
        max_seq_len: int = 4096,
        base: float = 10_000,
        *,
        factor: float,
        original_max_position_embeddings: int | None = None,
        interleaved: bool = True,
    ) -> None:
        self.factor = factor
        self.original_max_position_embeddings = original_max_position_embeddings or max_seq_len
        super().__init__(dim, max_seq_len, base, interleaved=interleaved)

    def _frequencies_for(self, positions: Tensor) -> Tensor:
        beyond = (positions.max() + 1) / self.original_max_position_embeddings - 1
        slowest = 1 + self.factor * beyond.clamp(min=0)
        pairs = torch.arange(self.dim // 2, device=positions.device)
        return self.freqs * slowest ** (-2 * pairs / (self.dim - 2))


class LongRoPE(RotaryPositionalEmbeddings):
    """RoPE with a factor found for each pair; which set of them holds depends on the largest position of a call.

    Source: https://arxiv.org/abs/2402.13753, and for the magnitude Phi 3 (https://arxiv.org/abs/2404.14219).

    Args:
        short_factor: pairs are slowed by these [dim / 2] up to ``original_max_position_embeddings`` tokens, and in
            longer sequences, in all their tokens, by ``long_factor``.
        factor: how many times the original context is extended.
        attention_factor: multiplies what turns; None derives it from ``factor``.

    Raises:
        ValueError: there is not one short and one long factor for each pair.
    """

    max_cached_positions = 0  # a position's angle depends on the others

    def __init__(
        self,
        dim: int,
        max_seq_len: int = 4096,
        base: float = 10_000,
        *,
        short_factor: Sequence[float],
        long_factor: Sequence[float],
        factor: float,
        original_max_position_embeddings: int,
        attention_factor: float | None = None,
        interleaved: bool = True,
    ) -> None:
        if not len(short_factor) == len(long_factor) == dim // 2:
            raise ValueError(
                f"{dim} channels turn as {dim // 2} pairs, but there are {len(short_factor)} short and "
                f"{len(long_factor)} long factors"
            )
        self.short_factor, self.long_factor = short_factor, long_factor
        self.original_max_position_embeddings = original_max_position_embeddings
        if attention_factor is None:
            beyond = math.log(factor) / math.log(original_max_position_embeddings)
            attention_factor = math.sqrt(1 + max(beyond, 0))
        self.magnitude = attention_factor
        super().__init__(dim, max_seq_len, base, interleaved=interleaved)

    def frequencies(self) -> Tensor:
        return super().frequencies() / torch.tensor(self.short_factor)

    def build_rope_cache(self, max_seq_len: int = 4096) -> None:
        super().build_rope_cache(max_seq_len)
        self.register_buffer("long_freqs", super().frequencies() / torch.tensor(self.long_factor), persistent=False)

    def _frequencies_for(self, positions: Tensor) -> Tensor:
        # A tensor chooses, since asking for its value would wait for the device and break a compiled graph.
        return torch.where(positions.max() < self.original_max_position_embeddings, self.freqs, self.long_freqs)
