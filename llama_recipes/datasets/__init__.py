"""The datasets of ``llama_recipes``, as components of a config, such as ``llama_recipes.datasets.samsum_dataset``."""

from llama_recipes.datasets._custom import custom_dataset
from llama_recipes.datasets._llama_guard import llamaguard_toxicchat_dataset
from llama_recipes.datasets._rows import alpaca_dataset, grammar_dataset, samsum_dataset

__all__ = ["alpaca_dataset", "custom_dataset", "grammar_dataset", "llamaguard_toxicchat_dataset", "samsum_dataset"]
