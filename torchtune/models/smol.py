"""SmolLM 2 under the name that torchtune has for it."""

from torchtune.models.smollm2 import smollm2, smollm2_1_7b, smollm2_135m, smollm2_360m

__all__ = ["smollm2", "smollm2_1_7b", "smollm2_135m", "smollm2_360m"]
