"""Neural-network parts in plain torch: no configs, no files, no process groups.

Tensor shapes are written with these letters: B batch, S sequence, T keys' sequence, D embed_dim, N heads, K key-value
heads, H head_dim, F feed-forward width, V vocabulary.
"""

from torchtune.modules.attention import MultiHeadAttention
from torchtune.modules.attention_utils import create_block_causal_mask, packed_block_causal_mask
from torchtune.modules.classifier import classifier_model
from torchtune.modules.common_utils import (
    delete_kv_caches,
    disable_kv_cache,
    local_kv_cache,
    reparametrize_as_dtype_state_dict_post_hook,
)
from torchtune.modules.cross_attention import TransformerCrossAttentionLayer
from torchtune.modules.embedding_utils import resize_token_embeddings
from torchtune.modules.feed_forward import FeedForward
from torchtune.modules.kv_cache import KVCache
from torchtune.modules.layer_dropout import LayerDropout, prepare_layer_dropout
from torchtune.modules.layer_norm import Fp32LayerNorm
from torchtune.modules.low_precision.nf4_linear import FrozenNF4Linear
from torchtune.modules.position_embeddings import RotaryPositionalEmbeddings
from torchtune.modules.rms_norm import RMSNorm, rms_norm
from torchtune.modules.tanh_gate import TanhGate
from torchtune.modules.tied_linear import TiedLinear
from torchtune.modules.transformer import TransformerDecoder, TransformerSelfAttentionLayer

__all__ = [
    "FeedForward", "Fp32LayerNorm", "FrozenNF4Linear", "KVCache", "LayerDropout", "MultiHeadAttention", "RMSNorm",
    "RotaryPositionalEmbeddings", "TanhGate", "TiedLinear", "TransformerCrossAttentionLayer", "TransformerDecoder",
    "TransformerSelfAttentionLayer", "classifier_model", "create_block_causal_mask", "delete_kv_caches",
    "disable_kv_cache", "local_kv_cache", "packed_block_causal_mask", "prepare_layer_dropout",
    "reparametrize_as_dtype_state_dict_post_hook", "resize_token_embeddings", "rms_norm",
]  # fmt: skip
