"""The documented functions that translate adapters for PEFT; the expectations are what torchtune 0.6.1 gives."""

import pytest
import torch

from torchtune.errors import CheckpointError
from torchtune.models.convert_weights import tune_to_peft_adapter_config, tune_to_peft_adapter_weights

CONFIG = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "output_proj", "w1", "output"], "peft_type": "LORA"}


def test_config():
    expected = CONFIG | {"target_modules": ["q_proj", "o_proj", "gate_proj", "lm_head"]}
    found = tune_to_peft_adapter_config(CONFIG)
    assert found | expected == found and found["base_model_name_or_path"] is None
    named = tune_to_peft_adapter_config(CONFIG | {"use_dora": True}, "org/model")
    assert named["base_model_name_or_path"] == "org/model" and named["use_dora"] is True
    with pytest.raises(CheckpointError, match="no lora_alpha and no target_modules"):
        tune_to_peft_adapter_config({"r": 8})
    with pytest.raises(CheckpointError, match="'o_proj'|o_proj has no name"):
        tune_to_peft_adapter_config(CONFIG | {"target_modules": ["o_proj"]})


@pytest.mark.parametrize("head_dim", [None, 4])
def test_weights(head_dim):
    rows = torch.arange(8.0).unsqueeze(1).repeat(1, 2)
    state = {
        "layers.0.attn.q_proj.lora_a.weight": rows.T,
        "layers.0.attn.q_proj.lora_b.weight": rows,
        "layers.3.mlp.w1.lora_b.weight": rows,
        "output.lora_a.weight": rows.T,
    }
    sizes = {"dim": 8} if head_dim is None else {"head_dim": head_dim}
    found = tune_to_peft_adapter_weights(state, num_heads=2, num_kv_heads=2, **sizes)
    expected = {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": rows.T,
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": rows[[0, 2, 1, 3, 4, 6, 5, 7]],
        "base_model.model.model.layers.3.mlp.gate_proj.lora_B.weight": rows,
        "base_model.model.lm_head.lora_A.weight": rows.T,
    }
    assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


def test_magnitudes_have_the_rows_of_their_weight():
    """torchtune 0.6.1 leaves them in its own order, which PEFT then multiplies with other rows."""
    found = tune_to_peft_adapter_weights({"layers.0.attn.k_proj.magnitude": torch.arange(8.0)}, head_dim=4)
    name = "base_model.model.model.layers.0.self_attn.k_proj.lora_magnitude_vector.weight"
    assert found[name].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
