"""What every transform of a sample looks like."""

from collections.abc import Mapping
from typing import Any, Protocol


class Transform(Protocol):
    """Something that takes a sample and gives a sample: a row into messages, messages into tokens."""

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]: ...
