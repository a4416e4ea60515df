"""Tiny models of every family, to be compared with transformers; one file of rows for each family.

A file has ``CASES``, a dict of :class:`Case` by name; ``tests/oracles/test_family_parity.py`` runs them all, and
``docs/models.md`` lists what they show.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch

TINY = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Case:
    """One tiny model.

    Args:
        model_type: transformers' name of the family.
        shows: what is special about this one, in a few words, for the docs.
        config: arguments of transformers' config class above ``TINY``; None takes one out.
        seq_len: tokens of the compared sequences.
        tolerance: largest absolute and relative difference of logits and gradients in float32.
        std: standard deviation of the random weights.
        builder: makes the same model by torchtune's builder; None where there is none of any size.
    """

    model_type: str
    shows: str
    config: Mapping[str, Any] = field(default_factory=dict)
    seq_len: int = 47
    tolerance: float = 1e-4
    std: float = 0.3
    builder: Callable[[], torch.nn.Module] | None = None

    def hf_config(self) -> Any:
        """Transformers' config object."""
        from transformers import AutoConfig

        values = {k: v for k, v in (TINY | dict(self.config)).items() if v is not None}
        return AutoConfig.for_model(self.model_type, **values)

    def oracle(self) -> torch.nn.Module:
        """Transformers' model with random weights, in float32."""
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(self.hf_config(), attn_implementation="eager", dtype=torch.float32)
        for parameter in model.parameters():
            parameter.data.normal_(0, self.std)
        return model.eval()


def all_cases() -> dict[str, Case]:
    """Every family's cases, as ``family/name``."""
    found = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        cases = import_module(f"{__name__}.{module.name}").CASES
        found |= {f"{module.name}/{name}": case for name, case in cases.items()}
    return found
