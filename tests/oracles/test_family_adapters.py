"""Adapters on families that are not Llama: PEFT's logits and loss, its files both ways, steps that learn."""

from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers
from family_cases import Case, all_cases
from torch import Tensor, nn

from torchtune.models._adapters import lora
from torchtune.modules.loss import LinearCrossEntropyLoss
from torchtune.training.adapters import BaseWeights, load_adapters, start_adapters
from torchtune.training.checkpointing import FullModelHFCheckpointer
from torchtune.training.contents import contents_of
from torchtune.training.distributed import World
from torchtune.training.loss import count_targets, summed_loss
from torchtune.training.model import load_model

ALONE = World(0, 1, torch.device("cpu"))
CASES = [
    "gemma/2b",
    "gemma2/caps",
    "gemma3/27b",
    "granite/2b",
    "granite/untied",
    "olmo2/32b",
    "olmo2/7b",
    "qwen2/7b",
    "qwen3/biases",
    "smollm3/3b",
]
ATTENTION = ["q_proj", "k_proj", "v_proj", "output_proj"]
THEIRS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

in_every_case = pytest.mark.parametrize("name", CASES)


def wide(name: str) -> Case:
    """The case, with a feed-forward that can be quantised in blocks of 64."""
    case = all_cases()[name]
    return replace(case, config={**case.config, "intermediate_size": 128})


def batch() -> dict[str, Tensor]:
    tokens = torch.randint(3, 97, (2, 31), generator=torch.Generator().manual_seed(1))
    labels = tokens.clone()
    labels[0, :9] = -100
    return {"tokens": tokens, "labels": labels}


class Ours:
    """A model with adapters on the weights in a folder."""

    def __init__(self, folder: Path, **settings: bool) -> None:
        self.checkpointer = FullModelHFCheckpointer(folder, output_dir=folder.parent / "out")
        self.base = BaseWeights(self.checkpointer)
        self.model = load_model(lambda: self._build(**settings), self.base.weights, ALONE, dtype=torch.float32)
        self.loss_of = summed_loss(LinearCrossEntropyLoss(), self.model)

    def _build(self, **settings: bool) -> nn.Module:
        family, config = self.checkpointer.family, self.checkpointer.config
        return lora(lambda: family.build(config), ATTENTION, True, lora_rank=4, lora_alpha=6, **settings)

    def loss(self) -> Tensor:
        """Summed in blocks, the output projection included."""
        return self.loss_of(self.model, batch()) / count_targets(batch())

    def logits(self) -> Tensor:
        with torch.no_grad():
            return self.model.project(self.model(batch()["tokens"]))

    def write(self, folder: Path, *, only: bool) -> Path:
        folder.mkdir()
        contents_of(self.model, self.checkpointer, self.base, ALONE, adapters_only=only).write(folder)
        return folder


def plain(folder: Path) -> nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(batch()["tokens"]).logits


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("name", "use_dora"), [*((name, False) for name in CASES), ("qwen2/7b", True)])
def test_an_adapter_of_peft_gives_its_logits_and_loss_and_goes_back(name: str, use_dora: bool, tmp_path: Path) -> None:
    wide(name).oracle().save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=THEIRS, task_type="CAUSAL_LM", use_dora=use_dora)
    theirs = peft.get_peft_model(plain(tmp_path / "base"), config)
    for parameter_name, parameter in theirs.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.normal_(0, 0.1)
        elif "magnitude" in parameter_name:
            parameter.data *= torch.rand_like(parameter) + 0.5
    theirs.save_pretrained(tmp_path / "adapter")
    expected, given = logits(theirs), batch()
    assert (expected - logits(plain(tmp_path / "base"))).abs().max() > 0.01 * expected.abs().max()

    ours = Ours(tmp_path / "base", use_dora=use_dora)
    load_adapters(ours.model, ours.checkpointer, tmp_path / "adapter", ours.base)
    assert_close(ours.logits(), expected)
    assert_close(ours.loss(), theirs(given["tokens"], labels=given["labels"]).loss)
    alone = ours.write(tmp_path / "alone", only=True)
    assert_close(logits(peft.PeftModel.from_pretrained(plain(tmp_path / "base"), alone)), expected)
    assert_close(logits(plain(ours.write(tmp_path / "merged", only=False))), expected)


@in_every_case
@pytest.mark.parametrize("quantize_base", [False, True], ids=["lora", "qlora"])
def test_a_few_steps_learn(name: str, quantize_base: bool, tmp_path: Path) -> None:
    replace(wide(name), std=0.1).oracle().save_pretrained(tmp_path / "base")
    ours = Ours(tmp_path / "base", quantize_base=quantize_base)
    start_adapters(ours.model, seed=0)
    optimizer = torch.optim.AdamW([p for p in ours.model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        losses.append(ours.loss())
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(after < before for before, after in zip(losses, losses[1:]))
