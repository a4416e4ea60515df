"""Code Llama (https://arxiv.org/abs/2308.12950). Rows: ``config.json`` of each checkpoint at
https://huggingface.co/codellama.
"""

from functools import partial

from torchtune.models._adapters import with_lora
from torchtune.models._decoder import Arch, build_decoder
from torchtune.modules import TransformerDecoder

__all__ = [
    "code_llama2_7b", "code_llama2_13b", "code_llama2_70b", "lora_code_llama2_7b", "lora_code_llama2_13b",
    "lora_code_llama2_70b", "qlora_code_llama2_7b", "qlora_code_llama2_13b", "qlora_code_llama2_70b",
]  # fmt: skip

_SHARED = {"vocab_size": 32_016, "max_seq_len": 16_384, "rope_base": 1_000_000.0, "norm_eps": 1e-5}
_7B = _SHARED | {"num_layers": 32, "num_heads": 32, "num_kv_heads": 32, "embed_dim": 4096}
_13B = _SHARED | {"num_layers": 40, "num_heads": 40, "num_kv_heads": 40, "embed_dim": 5120, "intermediate_dim": 13_824}
_70B = _SHARED | {"num_layers": 80, "num_heads": 64, "num_kv_heads": 8, "embed_dim": 8192, "intermediate_dim": 28_672}


def code_llama2_7b() -> TransformerDecoder:
    """Code Llama 7B."""
    return build_decoder(Arch.with_rope(**_7B))


def code_llama2_13b() -> TransformerDecoder:
    """Code Llama 13B."""
    return build_decoder(Arch.with_rope(**_13B))


def code_llama2_70b() -> TransformerDecoder:
    """Code Llama 70B."""
    return build_decoder(Arch.with_rope(**_70B))


lora_code_llama2_7b = with_lora(code_llama2_7b)
lora_code_llama2_13b = with_lora(code_llama2_13b)
lora_code_llama2_70b = with_lora(code_llama2_70b)
qlora_code_llama2_7b = partial(lora_code_llama2_7b, quantize_base=True)
qlora_code_llama2_13b = partial(lora_code_llama2_13b, quantize_base=True)
qlora_code_llama2_70b = partial(lora_code_llama2_70b, quantize_base=True)
