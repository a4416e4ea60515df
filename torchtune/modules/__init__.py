"""Neural-network parts in plain torch: no configs, no files, no process groups.

Tensor shapes are written with these letters: B batch, S sequence, T keys' sequence, D embed_dim, N heads, K key-value
heads, H head_dim, F feed-forward width, V vocabulary.
"""

from torchtune.modules.attention import MultiHeadAttention
from torchtune.modules.attention_utils import create_block_causal_mask, packed_block_causal_mask
from torchtune.modules.feed_forward import FeedForward
from torchtune.modules.kv_cache import KVCache
from torchtune.modules.position_embeddings import RotaryPositionalEmbeddings
from torchtune.modules.rms_norm import RMSNorm, rms_norm
from torchtune.modules.tied_linear import TiedLinear
from torchtune.modules.transformer import TransformerDecoder, TransformerSelfAttentionLayer

__all__ = [
    "FeedForward",
    "KVCache",
    "MultiHeadAttention",
    "RMSNorm",
    "RotaryPositionalEmbeddings",
    "TiedLinear",
    "TransformerDecoder",
    "TransformerSelfAttentionLayer",
    "create_block_causal_mask",
    "packed_block_causal_mask",
    "rms_norm",
]
