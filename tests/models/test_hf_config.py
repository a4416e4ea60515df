"""What a ``config.json`` says badly or not at all; the oracle for absent keys is in ``tests/oracles``."""

import pytest
from family_cases import Case, all_cases

from torchtune.errors import CheckpointError
from torchtune.models import family_of

FIRST = {case.model_type: case for case in reversed(all_cases().values())}
LISTS = {"layer_types": "full_attention", "no_rope_layers": 1}


def config_of(case: Case) -> dict:
    return case.hf_config().to_dict()


@pytest.mark.parametrize("length", [1, 3, 5])
@pytest.mark.parametrize("key", LISTS)
def test_a_list_that_does_not_say_something_of_each_layer_is_refused(key: str, length: int) -> None:
    config = config_of(FIRST["smollm3"]) | {key: [LISTS[key]] * length}
    with pytest.raises(CheckpointError, match=f"config.json's {key} has {length} entries, and there are 4 layers"):
        family_of(config).build(config)
    family_of(config).build(config | {key: [LISTS[key]] * 4})


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "ministral", "qwen2", "qwen3", "smollm3"])
def test_types_of_layers_in_every_family_that_has_them(model_type: str) -> None:
    config = config_of(FIRST[model_type])
    types = ["full_attention"] * config["num_hidden_layers"]
    family_of(config).describe(config | {"layer_types": types})
    with pytest.raises(CheckpointError, match="layer_types has .* entries"):
        family_of(config).describe(config | {"layer_types": types[1:]})


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_size_that_is_lacking_is_named(key: str) -> None:
    config = config_of(FIRST["llama"])
    del config[key]
    for read in (family_of(config).numbers, family_of(config).describe):
        with pytest.raises(CheckpointError, match=f"config.json lacks '{key}'"):
            read(config)


def test_a_key_that_is_not_known_does_not_keep_the_numbers_from_being_read() -> None:
    config = config_of(FIRST["llama"]) | {"a_new_feature": 3}
    assert family_of(config).numbers(config).num_layers == config["num_hidden_layers"]


def test_null_is_not_absent() -> None:
    config = config_of(FIRST["mistral"])
    assert family_of(config).numbers(config | {"sliding_window": None}).windows == (None,)
    del config["sliding_window"]
    assert family_of(config).numbers(config).windows == (4096,)
