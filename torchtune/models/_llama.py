"""The Llama family: what all its generations share."""

from collections.abc import Mapping
from typing import Any

from torchtune.models._decoder import Arch
from torchtune.models._family import Family
from torchtune.models._weights import HF_DECODER, WeightMap


def _arch(config: Mapping[str, Any]) -> Arch:
    bias = config.get("attention_bias", False)
    mlp_bias = config.get("mlp_bias", False)
    return Arch.from_hf(config, qkv_bias=bias, output_proj_bias=bias, mlp_bias=mlp_bias)


LLAMA = Family(name="llama", arch=_arch, hf=WeightMap(HF_DECODER))
