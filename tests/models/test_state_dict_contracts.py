"""The names and shapes of every Llama size, plain and with adapters, are torchtune's, so that its checkpoints load."""

import hashlib
import importlib
import json
from typing import Any

import pytest
import torch
from torch import nn

# builder: (parameters, tensors in the state dict, digest of their names and shapes), as in torchtune 0.6.1 and main;
# those with adapters have them on q_proj and v_proj.
CONTRACTS = {
    "code_llama2.code_llama2_13b": (13_016_028_160, 363, "63013c882801"),
    "code_llama2.code_llama2_70b": (68_976_910_336, 723, "a43e1d0dd383"),
    "code_llama2.code_llama2_7b": (6_738_546_688, 291, "cfe269acdb22"),
    "code_llama2.lora_code_llama2_13b": (13_022_581_760, 523, "40ec70ebf88a"),
    "code_llama2.lora_code_llama2_70b": (68_993_294_336, 1043, "49329a0b775f"),
    "code_llama2.lora_code_llama2_7b": (6_742_740_992, 419, "d91e4829679c"),
    "llama2.llama2_13b": (13_015_864_320, 363, "ae0a85db8e1a"),
    "llama2.llama2_70b": (68_976_648_192, 723, "3f52adfa2e90"),
    "llama2.llama2_7b": (6_738_415_616, 291, "4c61ab5a618d"),
    "llama2.llama2_reward_7b": (6_607_347_712, 291, "90a90a6a084d"),
    "llama2.lora_llama2_13b": (13_022_417_920, 523, "a67dcfd75d61"),
    "llama2.lora_llama2_70b": (68_993_032_192, 1043, "ba8a5356e6cc"),
    "llama2.lora_llama2_7b": (6_742_609_920, 419, "def28698a71a"),
    "llama2.lora_llama2_reward_7b": (6_611_542_016, 419, "8c0bcb0de099"),
    "llama3.llama3_70b": (70_553_706_496, 723, "e6ee3199029c"),
    "llama3.llama3_8b": (8_030_261_248, 291, "d46332d23784"),
    "llama3.lora_llama3_70b": (70_570_090_496, 1043, "864b01100093"),
    "llama3.lora_llama3_8b": (8_033_669_120, 419, "eeaf7791d2d0"),
    "llama3_1.llama3_1_405b": (405_853_388_800, 1137, "e0f102da6c14"),
    "llama3_1.llama3_1_70b": (70_553_706_496, 723, "e6ee3199029c"),
    "llama3_1.llama3_1_8b": (8_030_261_248, 291, "d46332d23784"),
    "llama3_1.lora_llama3_1_405b": (405_903_966_208, 1641, "3a406ae15b05"),
    "llama3_1.lora_llama3_1_70b": (70_570_090_496, 1043, "864b01100093"),
    "llama3_1.lora_llama3_1_8b": (8_033_669_120, 419, "eeaf7791d2d0"),
    "llama3_2.llama3_2_1b": (1_235_814_400, 146, "eb0ab98c5b0d"),
    "llama3_2.llama3_2_3b": (3_212_749_824, 254, "069e0da00089"),
    "llama3_2.lora_llama3_2_1b": (1_236_666_368, 210, "5c5b74060cde"),
    "llama3_2.lora_llama3_2_3b": (3_215_043_584, 366, "4795af35f640"),
    "llama3_3.llama3_3_70b": (70_553_706_496, 723, "e6ee3199029c"),
    "llama3_3.lora_llama3_3_70b": (70_570_090_496, 1043, "864b01100093"),
    "phi3.lora_phi3_mini": (3_824_225_280, 419, "d992326417aa"),
    "phi3.phi3_mini": (3_821_079_552, 291, "cda50f6a9f93"),
    "phi4.lora_phi4_14b": (14_664_832_000, 523, "e5ccc705be76"),
    "phi4.phi4_14b": (14_659_507_200, 363, "ea0fb2b18a8d"),
}


def build(builder: str) -> nn.Module:
    family, name = builder.split(".")
    adapters = {"lora_attn_modules": ["q_proj", "v_proj"]} if "lora" in name else {}
    with torch.device("meta"):
        return getattr(importlib.import_module(f"torchtune.models.{family}"), name)(**adapters)


def digest(model: nn.Module) -> str:
    """First 12 hex digits of the SHA-1 of the sorted names and shapes, as JSON."""
    shapes = sorted((name, list(tensor.shape)) for name, tensor in model.state_dict().items())
    return hashlib.sha1(json.dumps(shapes).encode()).hexdigest()[:12]


@pytest.mark.parametrize("builder", CONTRACTS)
def test_names_and_shapes_are_torchtunes(builder: str) -> None:
    model = build(builder)
    found = sum(p.numel() for p in model.parameters()), len(model.state_dict()), digest(model)
    assert found == CONTRACTS[builder]


def with_adapters() -> list[Any]:
    """The builders of models with adapters; quantising shapes takes the larger ones a while."""
    names = [name for name in CONTRACTS if ".lora_" in name]
    return [pytest.param(n, marks=pytest.mark.slow) if CONTRACTS[n][0] > 10**10 else n for n in names]


@pytest.mark.parametrize("builder", with_adapters())
def test_a_quantised_base_shows_the_same_names_and_shapes(builder: str) -> None:
    model = build(builder.replace(".lora_", ".qlora_"))
    assert (len(model.state_dict()), digest(model)) == CONTRACTS[builder][1:]
    assert model.layers[0].mlp.w1.weight.dtype == torch.uint8


@pytest.mark.parametrize("name", ["llama3_2_1b", "llama3_2_3b"])
def test_an_untied_model_has_an_output_of_its_own(name: str) -> None:
    builder = getattr(importlib.import_module("torchtune.models.llama3_2"), name)
    with torch.device("meta"):
        tied, untied = builder().state_dict(), builder(tie_word_embeddings=False).state_dict()
    assert set(untied) - set(tied) == {"output.weight"}
    assert untied["output.weight"].shape == tied["tok_embeddings.weight"].shape
