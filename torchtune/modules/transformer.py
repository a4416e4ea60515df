"""The decoder: layers, and the model that stacks them."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from torchtune.errors import DataError
from torchtune.modules.attention import MultiHeadAttention
from torchtune.modules.attention_utils import Documents
from torchtune.modules.cross_attention import TransformerCrossAttentionLayer as TransformerCrossAttentionLayer
from torchtune.modules.tied_linear import TiedLinear


class TransformerSelfAttentionLayer(nn.Module):
    """Pre-norm layer, [B, S, D] -> [B, S, D]: ``h = x + sa_scale(attn(sa_norm(x)))``, then the same around the MLP.

    Args:
        sa_scale: applied to the attention's output before it is added; None for none. Likewise ``mlp_scale``.
        mask_mod: ``(mask, batch_size, seq_len, seq_len) -> mask``, changes the mask this layer gets.
    """

    def __init__(
        self,
        attn: MultiHeadAttention,
        mlp: nn.Module,
        *,
        sa_norm: nn.Module | None = None,
        mlp_norm: nn.Module | None = None,
        sa_scale: nn.Module | None = None,
        mlp_scale: nn.Module | None = None,
        mask_mod: Callable[[Tensor, int, int, int], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.attn, self.mlp, self.mask_mod = attn, mlp, mask_mod
        self.sa_norm, self.mlp_norm = sa_norm or nn.Identity(), mlp_norm or nn.Identity()
        self.sa_scale, self.mlp_scale = sa_scale or nn.Identity(), mlp_scale or nn.Identity()

    def setup_caches(
        self, batch_size: int, dtype: torch.dtype, *, encoder_max_seq_len: int | None, decoder_max_seq_len: int
    ) -> None:
        """Give the attention a key-value cache of ``decoder_max_seq_len`` positions."""
        self.attn.setup_cache(batch_size, dtype, decoder_max_seq_len)

    def caches_are_setup(self) -> bool:
        """True when there is a cache, enabled or not."""
        return self.attn.kv_cache is not None

    def caches_are_enabled(self) -> bool:
        """True when there is a cache and forward uses it."""
        return self.attn.kv_cache is not None and self.attn.cache_enabled

    def reset_cache(self) -> None:
        """Empty the cache."""
        self.attn.reset_cache()

    def forward(
        self, x: Tensor, *, mask: Tensor | Documents | None = None, input_pos: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """See the class; ``kwargs`` lets a decoder pass encoder inputs to all its layers alike."""
        if self.mask_mod is not None:
            mask = self.mask_mod(mask, *x.shape[:2], x.shape[1])
        h = x + self.sa_scale(self.attn(self.sa_norm(x), mask=mask, input_pos=input_pos))
        return h + self.mlp_scale(self.mlp(self.mlp_norm(h)))


class TransformerDecoder(nn.Module):
    """tokens [B, S] -> logits [B, S, V] in float32, or hidden states [B, S, D] with ``skip_output_layer`` set.

    Args:
        layers: the layers, or one layer that is copied ``num_layers`` times.
        max_seq_len: longest sequence, in tokens.
        norm: applied after the last layer.
        output: projection to the vocabulary; a :class:`TiedLinear` shares the embedding's weight.
        output_hidden_states: numbers of the layers whose inputs are returned as well.
        finish_logits: applied to what ``output`` gives, for example a soft cap.

    Raises:
        ValueError: ``num_layers`` contradicts ``layers``.
    """

    def __init__(
        self,
        *,
        tok_embeddings: nn.Embedding,
        layers: nn.Module | Iterable[nn.Module],
        max_seq_len: int,
        num_heads: int,
        head_dim: int,
        norm: nn.Module,
        output: nn.Module | Callable[[Tensor], Tensor],
        num_layers: int | None = None,
        output_hidden_states: list[int] | None = None,
        finish_logits: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.tok_embeddings, self.layers = tok_embeddings, _module_list(layers, num_layers)
        self.norm, self.output, self.finish_logits = norm, output, finish_logits
        self.max_seq_len, self.num_heads, self.head_dim = max_seq_len, num_heads, head_dim
        self.output_hidden_states = output_hidden_states or []
        self.skip_output_layer, self.num_output_chunks = False, 0
        self.encoder_max_cache_seq_len: int | None = None
        self.decoder_max_cache_seq_len: int | None = None

    @property
    def is_tied(self) -> bool:
        """True when the output projection reads the token embedding's weight."""
        return isinstance(self.output, TiedLinear)

    def set_num_output_chunks(self, num_output_chunks: int) -> None:
        """Return the logits as this many pieces along the sequence, so that a loss can upcast one at a time."""
        self.num_output_chunks = num_output_chunks

    def setup_caches(
        self,
        batch_size: int,
        dtype: torch.dtype,
        *,
        encoder_max_seq_len: int | None = None,
        decoder_max_seq_len: int | None = None,
    ) -> None:
        """Give every layer a key-value cache; None means ``max_seq_len`` positions."""
        self.encoder_max_cache_seq_len = encoder_max_seq_len or self.max_seq_len
        self.decoder_max_cache_seq_len = decoder_max_seq_len or self.max_seq_len
        for layer in self.layers:
            layer.setup_caches(
                batch_size,
                dtype,
                encoder_max_seq_len=self.encoder_max_cache_seq_len,
                decoder_max_seq_len=self.decoder_max_cache_seq_len,
            )

    def caches_are_setup(self) -> bool:
        """True when the layers have caches, enabled or not."""
        return self.layers[0].caches_are_setup()

    def caches_are_enabled(self) -> bool:
        """True when the layers have caches and forward uses them."""
        return self.layers[0].caches_are_enabled()

    def reset_caches(self) -> None:
        """Empty every layer's cache.

        Raises:
            RuntimeError: there are none.
        """
        if not self.caches_are_setup():
            raise RuntimeError("there are no key-value caches to reset; call setup_caches first")
        for layer in self.layers:
            layer.reset_cache()

    def forward(
        self,
        tokens: Tensor | None,
        *,
        mask: Tensor | Documents | None = None,
        encoder_input: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        input_pos: Tensor | None = None,
        input_embeds: Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        """Run the model.

        Args:
            mask: bool [B, S, S] (with caches [B, S, cache positions]), True = may look; or the documents in the rows;
                None is causal.
            input_pos: each token's position, [B, S]; None means 0 .. S - 1, or on from what the caches hold.
            input_embeds: [B, S, D], used in place of ``tokens``.

        Raises:
            ValueError: a sequence longer than ``max_seq_len``, or than the caches.
        """
        h = self.tok_embeddings(tokens) if input_embeds is None else input_embeds
        self._check_length(h.shape[1])
        hidden = []
        for i, layer in enumerate(self.layers):
            if i in self.output_hidden_states:
                hidden.append(h)
            h = layer(h, mask=mask, encoder_input=encoder_input, encoder_mask=encoder_mask, input_pos=input_pos)
        if len(self.layers) in self.output_hidden_states:
            hidden.append(h)
        output = self.unembed(h)
        return [*hidden, output] if hidden else output

    def unembed(self, h: Tensor) -> Tensor | list[Tensor]:
        """Norm and output projection: [B, S, D] -> logits [B, S, V] float32; see the class and the setters."""
        h = self.norm(h)
        if self.skip_output_layer:
            return h
        return self.chunked_output(h) if self.num_output_chunks > 0 else self.project(h).float()

    def project(self, h: Tensor) -> Tensor:
        """Logits of normed hidden states: [..., D] -> [..., V], in the model's dtype."""
        logits = self.output(h)
        return logits if self.finish_logits is None else self.finish_logits(logits)

    def chunked_output(self, last_hidden_state: Tensor) -> list[Tensor]:
        """Logits of pieces of the sequence, each [B, about S / num_output_chunks, V], in the model's dtype."""
        return [self.project(piece) for piece in last_hidden_state.tensor_split(self.num_output_chunks, dim=1)]

    def _check_length(self, seq_len: int) -> None:
        longest = self.decoder_max_cache_seq_len if self.caches_are_enabled() else self.max_seq_len
        if seq_len > longest:
            raise DataError(
                f"a sequence of {seq_len} tokens is longer than the {longest} that the model is set up for; "
                "tokenizer.max_seq_len cuts samples"
            )


def _module_list(layers: nn.Module | Iterable[nn.Module], num_layers: int | None) -> nn.ModuleList:
    if isinstance(layers, nn.Module) and not isinstance(layers, nn.ModuleList):
        if num_layers is None:
            raise ValueError("num_layers is needed when a single layer is given")
        return nn.ModuleList(deepcopy(layers) for _ in range(num_layers))
    layers = nn.ModuleList(layers)
    if num_layers not in (None, len(layers)):
        raise ValueError(f"num_layers is {num_layers}, but {len(layers)} layers were given")
    return layers
