"""The settings of ``llama_recipes``, under its names."""

from llama_recipes.configs import datasets

__all__ = ["datasets"]
