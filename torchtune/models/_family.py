"""What a family of checkpoints is."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torchtune.errors import CheckpointError
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

    @cached_property
    def hf_classifier(self) -> WeightMap:
        """Names in Hugging Face's files of a classifier; the head of a language model is skipped in them."""
        rules = {theirs: None if ours == "output" else ours for theirs, ours in self.hf.rules.items()}
        return WeightMap(rules | {"score": "output"}, rotary=self.hf.rotary)

    def numbers(self, config: Mapping[str, Any]) -> Arch:
        """What a ``config.json`` says of a model in numbers, whatever it has besides that is not known.

        Raises:
            CheckpointError: it lacks something.
        """
        with _refuses_what_lacks():
            return self.arch(HFConfig(config))

    def describe(self, config: Mapping[str, Any]) -> tuple[Arch, Parts]:
        """What a ``config.json`` says of a model.

        Raises:
            CheckpointError: it lacks something, or has something that this family does not know.
        """
        reading = HFConfig(config)
        with _refuses_what_lacks():
            arch, parts = self.arch(reading), self.parts(reading)
        reading.check_lists()
        reading.check_all_read()
        return replace(arch, num_classes=num_classes(config)), parts

    def build(self, config: Mapping[str, Any]) -> TransformerDecoder:
        """The model that a ``config.json`` describes."""
        return build_decoder(*self.describe(config))


@contextmanager
def _refuses_what_lacks() -> Iterator[None]:
    try:
        yield
    except KeyError as e:
        raise CheckpointError(f"config.json lacks {e.args[0]!r}, which every such file has; is it complete?") from None


def num_classes(config: Mapping[str, Any]) -> int | None:
    """The classes of the classifier that a ``config.json`` describes; None when it is a language model's."""
    if not any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
        return None
    labels = config.get("id2label")
    return len(labels) if labels else config.get("num_labels") or 2  # transformers does not write its default
