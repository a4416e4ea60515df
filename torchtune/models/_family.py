"""What a family of checkpoints is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchtune.models._decoder import Arch, Parts, build_decoder
from torchtune.models._hf_config import HFConfig
from torchtune.models._weights import META_DECODER, WeightMap
from torchtune.modules import TransformerDecoder


@dataclass(frozen=True)
class Family:
    """Everything the library knows about a family of checkpoints.

    Args:
        arch: reads the numbers from a Hugging Face ``config.json``, and ``parts`` the constructors.
        hf: names in Hugging Face's files; ``meta``: names in Meta's.
    """

    name: str
    arch: Callable[[Mapping[str, Any]], Arch]
    hf: WeightMap
    meta: WeightMap = WeightMap(META_DECODER)
    parts: Callable[[Mapping[str, Any]], Parts] = lambda config: Parts()

    def describe(self, config: Mapping[str, Any]) -> tuple[Arch, Parts]:
        """What a ``config.json`` says of a model.

        Raises:
            CheckpointError: it lacks something, or has something that this family does not know.
        """
        reading = HFConfig(config)
        described = self.arch(reading), self.parts(reading)
        reading.check_all_read()
        return described

    def build(self, config: Mapping[str, Any]) -> TransformerDecoder:
        """The model that a ``config.json`` describes."""
        return build_decoder(*self.describe(config))
