"""The Llama family: what all its generations share."""

from torchtune.models._decoder import Arch
from torchtune.models._family import Family
from torchtune.models._weights import HF_DECODER, WeightMap

LLAMA = Family(name="llama", arch=Arch.from_hf, hf=WeightMap(HF_DECODER))
