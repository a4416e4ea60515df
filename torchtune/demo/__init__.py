"""What `tune demo` carries, and how its model is asked before and after training. See assets/README.md."""

from torchtune.demo._answers import answer, exact_match, load_for, prompts_of
from torchtune.demo._folder import empty
from torchtune.demo._rows import ASSETS, held_out_rows

__all__ = ["ASSETS", "answer", "empty", "exact_match", "held_out_rows", "load_for", "prompts_of"]
