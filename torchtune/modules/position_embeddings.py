"""Rotary position embeddings (https://arxiv.org/abs/2104.09864)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class RotaryPositionalEmbeddings(nn.Module):
    """Rotates pairs of channels of x [B, S, N, H] by an angle that grows with position.

    Args:
        dim: channels that rotate, at most H; the rest pass through.
        max_seq_len: positions the angle cache covers, where there is one; see ``max_cached_positions``.
        base: the slowest pair's wavelength is ``2 pi base`` tokens.
        interleaved: pairs are (0, 1), (2, 3), ... as in Meta's weights; otherwise (0, dim/2), (1, dim/2 + 1), ...
    """

    magnitude = 1.0  # multiplies what turns; some ways to extend a context ask for it
    # So many take 64 MiB in heads of 128 channels. A cache of more (Llama 4 has 10 million) would take gigabytes, while
    # the angles of the tokens at hand are few.
    max_cached_positions = 131_072

    def __init__(self, dim: int, max_seq_len: int = 4096, base: float = 10_000, *, interleaved: bool = True) -> None:
        super().__init__()
        self.dim, self.max_seq_len, self.base, self.interleaved = dim, max_seq_len, base, interleaved
        self.rope_init()

    def rope_init(self) -> None:
        """(Re)build the angle cache; called again once a model made on the meta device has a real one."""
        self.build_rope_cache(self.max_seq_len)

    def frequencies(self) -> Tensor:
        """Radians per token of each pair, [dim / 2]."""
        return 1.0 / self.base ** (torch.arange(0, self.dim, 2).float() / self.dim)

    def build_rope_cache(self, max_seq_len: int = 4096) -> None:
        """Fill ``freqs`` [dim / 2], and ``cos`` and ``sin`` [max_seq_len, dim / 2] unless those are too many (None)."""
        freqs = self.frequencies()
        cos = sin = None
        if max_seq_len <= self.max_cached_positions:
            cos, sin = self._turns(torch.arange(max_seq_len, device=freqs.device), freqs)
        self.register_buffer("freqs", freqs, persistent=False)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _turns(self, positions: Tensor, freqs: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of positions [...] at frequencies [dim / 2], each [..., dim / 2]."""
        angles = positions[..., None].float() * freqs
        return angles.cos() * self.magnitude, angles.sin() * self.magnitude

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RotaryPositionalEmbeddings":
        """Follows the model to a device, but stays in float32: bf16 loses far positions."""
        return super()._apply(lambda t: fn(t) if t.is_meta else t.to(fn(t).device), recurse)

    def _frequencies_for(self, positions: Tensor) -> Tensor:
        """Radians per token of each pair, [dim / 2], in a call with these positions."""
        return self.freqs

    def _cos_sin(self, S: int, input_pos: Tensor | None) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` turns by, each [S, dim / 2] or [B, S, dim / 2]."""
        if self.cos is None:
            positions = torch.arange(S, device=self.freqs.device) if input_pos is None else input_pos
            return self._turns(positions, self._frequencies_for(positions))
        places = slice(S) if input_pos is None else input_pos
        return self.cos[places], self.sin[places]

    def forward(self, x: Tensor, *, input_pos: Tensor | None = None) -> Tensor:
        """Rotate x [B, S, N, H].

        Args:
            input_pos: each token's position, [B, S] or [S]; None means 0 .. S - 1.
        """
        S, half = x.shape[1], self.dim // 2
        cos, sin = (turn.view(-1, S, 1, half) for turn in self._cos_sin(S, input_pos))
        turning = x[..., : self.dim].float()
        if self.interleaved:
            a, b = turning.unflatten(-1, (half, 2)).unbind(-1)
            out = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
        else:
            a, b = turning.chunk(2, dim=-1)
            out = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
        out = out.type_as(x)
        return out if self.dim == x.shape[-1] else torch.cat((out, x[..., self.dim :]), dim=-1)


class Llama3ScaledRoPE(RotaryPositionalEmbeddings):
    """RoPE with the frequency scaling of Llama 3.1, which extends a context of ``old_context_len`` tokens.

    Slow pairs (wavelength over ``old_context_len / low_freq_factor``) turn ``scale_factor`` times slower, fast ones
    (under ``old_context_len / high_freq_factor``) are kept, those between are blended.
    Source: https://arxiv.org/abs/2407.21783 and ``apply_scaling`` in https://github.com/meta-llama/llama-models.
    """

    def __init__(
        self,
        dim: int,
        max_seq_len: int = 4096,
        base: float = 10_000,
        scale_factor: float = 8,
        low_freq_factor: float = 1,
        high_freq_factor: float = 4,
        old_context_len: int = 8192,
        *,
        interleaved: bool = True,
    ) -> None:
        self.scale_factor, self.low_freq_factor = scale_factor, low_freq_factor
        self.high_freq_factor, self.old_context_len = high_freq_factor, old_context_len
        super().__init__(dim, max_seq_len, base, interleaved=interleaved)

    def frequencies(self) -> Tensor:
        return self.apply_scaling(
            super().frequencies(), self.scale_factor, self.low_freq_factor, self.high_freq_factor, self.old_context_len
        )

    @staticmethod
    def apply_scaling(
        freqs: Tensor, scale_factor: float, low_freq_factor: float, high_freq_factor: float, old_context_len: int
    ) -> Tensor:
        """Scaled frequencies [dim / 2]."""
        turns = old_context_len * freqs / (2 * math.pi)  # full turns a pair makes within the old context
        blend = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
        return (1 - blend) * freqs / scale_factor + blend * freqs
