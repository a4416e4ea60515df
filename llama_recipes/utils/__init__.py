"""Helpers under the names that code written for ``llama_recipes`` imports."""
