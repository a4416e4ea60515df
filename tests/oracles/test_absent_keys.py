"""A ``config.json`` that lacks a key describes the model that transformers makes of it, or is refused for a size."""

from dataclasses import replace
from itertools import cycle, islice

import pytest
import torch
from family_cases import Case, all_cases
from transformers import AutoConfig
from transformers.utils import logging

from torchtune.errors import CheckpointError
from torchtune.models import family_of
from torchtune.models._decoder import Arch
from torchtune.models._hf_config import _WITHOUT_EFFECT
from torchtune.training.check_model import differences

CASES = all_cases()
# Where a file lacks one of these, transformers takes that of the family's first checkpoint.
SIZES = {
    "hidden_size", "intermediate_size", "max_position_embeddings", "moe_intermediate_size", "num_attention_heads",
    "num_experts_per_tok", "num_hidden_layers", "num_local_experts", "vocab_size",
}  # fmt: skip
# Llama's first files lack this and mean as many as there are heads; elsewhere such a guess fits no weights.
KEY_HEADS = {"num_key_value_heads"}
PASSED_BY = KEY_HEADS | _WITHOUT_EFFECT


@pytest.fixture(autouse=True)
def quiet():
    """Transformers says much of configs that these tests have taken a key from."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(level)


def numbers(config: dict) -> Arch:
    """Those of a config, spelled out."""
    arch = family_of(config).describe(config)[0]
    ropes, windows = (tuple(islice(cycle(each), arch.num_layers)) for each in (arch.ropes, arch.windows))
    return replace(arch, head_dim=arch.channels, ropes=ropes, windows=windows)


def refusal(config: dict) -> str | None:
    try:
        numbers(config)
    except CheckpointError as e:
        return str(e)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_key_in_turn(case: Case) -> None:
    whole = case.hf_config().to_dict()
    for key in whole.keys() - PASSED_BY:
        rest = {k: v for k, v in whole.items() if k != key}
        refused = refusal(rest)
        if refused and key in SIZES:
            assert "lacks" in refused
            continue
        completed = AutoConfig.for_model(**rest).to_dict()
        if refused:  # the rest has layers with a window, say, and there is none
            assert refusal(completed), f"{key}: {refused}"
            continue
        assert numbers(rest) == numbers(completed), key
        with torch.device("meta"):
            found = differences(family_of(completed).build(completed), family_of(rest).build(rest))
        assert found == [], key
