"""The Llama family: what all its generations share."""

from functools import partial

from torchtune.models._decoder import Arch
from torchtune.models._family import Family
from torchtune.models._weights import HF_DECODER, WeightMap

_arch = partial(Arch.from_hf, biases=("attention_bias", "mlp_bias"))
LLAMA = Family(name="llama", arch=_arch, hf=WeightMap(HF_DECODER))
