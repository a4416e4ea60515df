"""Models with experts, whose files transformers reads into other tensors than it writes."""

import json
from pathlib import Path

import peft
import pytest
import torch
from family_cases import all_cases
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from torchtune.models._adapters import lora
from torchtune.models.mixtral import MIXTRAL
from torchtune.training.adapters import BaseWeights, start_adapters
from torchtune.training.checkpointing import FullModelHFCheckpointer
from torchtune.training.contents import contents_of
from torchtune.training.distributed import World
from torchtune.training.model import load_model

CASES = ["mixtral/8x7b", "qwen3_moe/mixed"]


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    all_cases()[name].oracle().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("to", ["hf", "torchtune"])
def test_every_weight_is_read_as_it_was(name, folder, export, to):
    written = export(folder, to, verify=True)
    report = json.loads((written / "verify.json").read_text())
    weights = sum(1 for _ in FullModelHFCheckpointer(folder).load_checkpoint()["model"])
    assert report["weights"] == {"tensors": weights, "different": 0}
    assert report["logits"]["max_abs_difference"] < 1e-3 * all_cases()[name].std


@pytest.mark.parametrize("name", CASES[:1])
def test_an_adapter_on_experts_alone_and_merged(name, folder, export, tmp_path):
    base = BaseWeights(checkpointer := FullModelHFCheckpointer(folder, output_dir=tmp_path / "run"))
    world = World(0, 1, torch.device("cpu"))
    build = lambda: lora(lambda: MIXTRAL.build(checkpointer.config), ["q_proj"], True, lora_rank=4)  # noqa: E731
    model = load_model(build, base.weights, world, dtype=torch.float32)
    start_adapters(model, seed=0)
    for name, parameter in model.named_parameters():
        if name.endswith(("_b", "lora_b.weight")):
            parameter.data.normal_(0, 0.1)
    (tmp_path / "trained").mkdir()
    contents_of(model, checkpointer, base, world, adapters_only=True).write(tmp_path / "trained")

    tokens = torch.arange(60).view(2, 30)
    expected = model.eval()(tokens)
    alone = export(tmp_path / "trained", "peft", base=folder, verify=True)
    assert any(".experts.7.w1.lora_A" in key for key in load_file(alone / "adapter_model.safetensors"))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = peft.PeftModel.from_pretrained(theirs, alone).eval()(tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    merged = export(tmp_path / "trained", "hf", base=folder)
    found = AutoModelForCausalLM.from_pretrained(merged)(tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
