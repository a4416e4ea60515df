"""Phi 4 (https://arxiv.org/abs/2412.08905) and Phi 4 mini (https://arxiv.org/abs/2503.01743), in the form of Phi 3's
checkpoints. Rows: ``config.json`` of each at https://huggingface.co/microsoft.
"""

from functools import partial

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.models._hf_tokenizer import hf_tokenizer
from torchtune.models._phi_tokenizers import Phi4Tokenizer, phi4_tokenizer
from torchtune.models._rope import Rope
from torchtune.modules import TransformerDecoder

__all__ = [
    "Phi4Tokenizer", "lora_phi4_14b", "lora_phi4_mini", "phi4_14b", "phi4_mini", "phi4_mini_tokenizer",
    "phi4_tokenizer", "qlora_phi4_14b", "qlora_phi4_mini",
]  # fmt: skip

_14B = {
    "vocab_size": 100_352,
    "num_layers": 40,
    "num_heads": 40,
    "num_kv_heads": 10,
    "embed_dim": 5120,
    "intermediate_dim": 17_920,
    "max_seq_len": 16_384,
    "norm_eps": 1e-5,
    "rope_base": 250_000,
}
_MINI = {
    "vocab_size": 200_064,
    "num_layers": 32,
    "num_heads": 24,
    "num_kv_heads": 8,
    "embed_dim": 3072,
    "intermediate_dim": 8192,
    "max_seq_len": 131_072,
    "norm_eps": 1e-5,
    "tied": True,
}
_MINI_SCALING = {
    "rope_type": "longrope",
    "factor": 32.0,
    "original_max_position_embeddings": 4096,
    "short_factor": [1.0] * 48,
    "long_factor": [
        1.0, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898,
        2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424,
        6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252,
        16.37415215, 18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6,
        32.61, 32.64, 32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
    ],
}  # fmt: skip


def phi4_14b() -> TransformerDecoder:
    """Phi 4 14B."""
    return build_decoder(Arch.with_rope(interleaved=False, **_14B))


def phi4_mini() -> TransformerDecoder:
    """Phi 4 mini; the window of 262,144 tokens in its config is longer than any sequence."""
    return build_decoder(Arch(ropes=(Rope(fraction=0.75, interleaved=False, scaling=_MINI_SCALING),), **_MINI))


phi4_mini_tokenizer = hf_tokenizer
lora_phi4_14b = with_lora(phi4_14b)
lora_phi4_mini = with_lora(phi4_mini)
qlora_phi4_14b = partial(lora_phi4_14b, quantize_base=True)
qlora_phi4_mini = partial(lora_phi4_mini, quantize_base=True)
