"""What a family of checkpoints is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchtune.models._decoder import Arch, Parts, build_decoder
from torchtune.models._weights import META_DECODER, WeightMap
from torchtune.modules import TransformerDecoder


@dataclass(frozen=True)
class Family:
    """Everything the library knows about a family of checkpoints.

    Args:
        arch: reads a Hugging Face ``config.json``.
        hf: names in Hugging Face's files; ``meta``: names in Meta's.
    """

    name: str
    arch: Callable[[Mapping[str, Any]], Arch]
    hf: WeightMap
    meta: WeightMap = WeightMap(META_DECODER)
    parts: Parts = Parts()

    def build(self, config: Mapping[str, Any]) -> TransformerDecoder:
        """The model that a ``config.json`` describes."""
        return build_decoder(self.arch(config), self.parts)
