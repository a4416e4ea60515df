"""Linear layers whose weights take few bits."""

from torchtune.modules.low_precision.nf4_linear import FrozenNF4Linear

__all__ = ["FrozenNF4Linear"]
