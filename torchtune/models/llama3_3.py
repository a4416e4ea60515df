"""Llama 3.3: the shape of Llama 3.1 70B, trained anew (https://huggingface.co/meta-llama/Llama-3.3-70B-Instruct)."""

from functools import partial

from torchtune.models._adapters import with_lora
from torchtune.models.llama3_1 import llama3_1_70b
from torchtune.modules import TransformerDecoder

__all__ = ["llama3_3_70b", "lora_llama3_3_70b", "qlora_llama3_3_70b"]


def llama3_3_70b() -> TransformerDecoder:
    """Llama 3.3 70B."""
    return llama3_1_70b()


lora_llama3_3_70b = with_lora(llama3_3_70b)
qlora_llama3_3_70b = partial(lora_llama3_3_70b, quantize_base=True)
