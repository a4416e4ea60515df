"""Adapters on experts: PEFT's logits, its files both ways in every form that it has, steps that learn."""

from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers
from family_cases import all_cases
from safetensors.torch import load_file
from test_family_adapters import ATTENTION, Ours, assert_close, batch, logits, plain
from torch import nn

from torchtune.errors import CheckpointError, ConfigError
from torchtune.models._adapters import lora
from torchtune.models._tensor_forms import Columns
from torchtune.models._weights import HF_DECODER, WeightMap
from torchtune.modules.moe import LoRAGroupedExperts
from torchtune.modules.peft import AdapterSpec
from torchtune.training.adapters import load_adapters, start_adapters
from torchtune.training.checkpointing.adapter import peft_form, read_adapter, write_peft

WIDE = {  # so that experts can be quantised in blocks of 64
    "mixtral/8x7b": {"intermediate_size": 128},
    "qwen3_moe/30b": {"intermediate_size": 128, "moe_intermediate_size": 64},
}
ATTENTION_THERE = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS_THERE = {"mixtral/8x7b": ["w1", "w2", "w3"], "qwen3_moe/30b": ["gate_proj", "up_proj", "down_proj"]}

in_every_case = pytest.mark.parametrize("name", WIDE)


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    case = all_cases()[name]
    replace(case, config={**case.config, **WIDE[name]}).oracle().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def trained(folder: Path, **settings: bool) -> Ours:
    """Fresh adapters, and then other ones."""
    ours = Ours(folder, **settings)
    start_adapters(ours.model, seed=0)
    assert_close(ours.logits(), logits(plain(folder)))
    for name, parameter in ours.model.named_parameters():
        if name.endswith(("_b", "lora_b.weight")):
            parameter.data.normal_(0, 0.1)
    return ours


def theirs_on(folder: Path, **settings: object) -> nn.Module:
    config = peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **settings)
    theirs = peft.get_peft_model(plain(folder), config)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    return theirs


@in_every_case
def test_peft_and_transformers_read_what_is_written(name, folder, tmp_path):
    ours = trained(folder)
    expected = ours.logits()
    assert (expected - logits(plain(folder))).abs().max() > 0.01 * expected.abs().max()
    alone, merged = ours.write(tmp_path / "alone", only=True), ours.write(tmp_path / "merged", only=False)
    assert_close(logits(peft.PeftModel.from_pretrained(plain(folder), alone)), expected)
    assert_close(logits(plain(merged)), expected)
    for source in (alone, merged, alone / "adapter_model.pt"):
        again = Ours(folder)
        load_adapters(again.model, again.checkpointer, source, again.base)
        assert torch.equal(again.logits(), expected)


@in_every_case
def test_what_peft_would_scale_otherwise_is_not_written_for_it(name, folder, tmp_path, caplog):
    """It doubles rank and alpha where it makes one of two adapters, and then divides by the square root of the rank."""
    ours = trained(folder, use_rslora=True)
    alone = ours.write(tmp_path / "alone", only=True)
    assert "adapter_model.pt only, not in PEFT's format: use_rslora" in caplog.text
    assert [path.name for path in alone.glob("adapter*")] == ["adapter_model.pt"]
    again = Ours(folder, use_rslora=True)
    load_adapters(again.model, again.checkpointer, alone, again.base)
    assert torch.equal(again.logits(), ours.logits())
    theirs = theirs_on(folder, target_modules=EXPERTS_THERE[name], use_rslora=True)
    _keep_apart(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match="the scales must be the same"):
        load_adapters(again.model, again.checkpointer, tmp_path / "theirs", again.base)


@in_every_case
@pytest.mark.parametrize("form", ["of older models", "stacks, one A for two", "stacks, twice the rank"])
def test_what_peft_writes_is_loaded(name, folder, tmp_path, form):
    if form == "stacks, one A for two":
        stacks = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        theirs = theirs_on(folder, target_modules=ATTENTION_THERE, target_parameters=stacks)
    else:  # PEFT makes stacks of them, and B then has no blocks of zeros
        theirs = theirs_on(folder, target_modules=ATTENTION_THERE + EXPERTS_THERE[name])
        _keep_apart(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    source = tmp_path / "theirs"
    assert any(".experts.base_layer.lora_A" in key for key in load_file(source / "adapter_model.safetensors"))
    if form == "of older models":
        again = Ours(folder)
        load_adapters(again.model, again.checkpointer, source, again.base)
        source = again.write(tmp_path / "older", only=True)
        assert any(".experts.3." in key for key in load_file(source / "adapter_model.safetensors"))
    ours = Ours(folder)
    load_adapters(ours.model, ours.checkpointer, source, ours.base)
    assert_close(ours.logits(), logits(theirs))
    given = batch()
    assert_close(ours.loss(), theirs(given["tokens"], labels=given["labels"]).loss)


def _keep_apart(theirs: nn.Module) -> None:
    """Zeros where the ranks of the gate meet the rows of the other projection."""
    for name, parameter in theirs.named_parameters():
        if ".experts.base_layer.lora_B" in name:
            blocks = parameter.data.view(len(parameter) // 2 * 2, 8, -1)
            half = len(blocks) // 2
            blocks[:half, 4:], blocks[half:, :4] = 0, 0


@in_every_case
def test_ranks_that_two_projections_share_are_not_taken_apart(name, folder, tmp_path):
    theirs = theirs_on(folder, target_modules=ATTENTION_THERE + EXPERTS_THERE[name])
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Ours(folder)
    with pytest.raises(CheckpointError, match="mixes the ranks of gate_proj and up_proj"):
        load_adapters(ours.model, ours.checkpointer, tmp_path / "theirs", ours.base)
    theirs = theirs_on(folder, target_modules=ATTENTION_THERE, target_parameters=["mlp.experts.down_proj"])
    theirs.save_pretrained(tmp_path / "half")
    with pytest.raises(CheckpointError, match="gate_up_proj and down_proj both need an adapter"):
        load_adapters(ours.model, ours.checkpointer, tmp_path / "half", ours.base)


@in_every_case
def test_gradients_equal_those_of_peft(name, folder, tmp_path):
    ours = trained(folder)
    theirs = peft.PeftModel.from_pretrained(plain(folder), ours.write(tmp_path / "alone", only=True), is_trainable=True)
    ours.loss().backward()
    given = batch()
    theirs(given["tokens"], labels=given["labels"]).loss.backward()
    expected = dict(theirs.named_parameters())
    prefix = "base_model.model.model.layers.1.mlp.experts"
    experts = ours.model.layers[1].mlp.experts
    of_down = expected[f"{prefix}.lora_A.default.weight"].grad.view(experts.num_experts, 4, -1).transpose(1, 2)
    assert_close(experts.lora_down_a.grad, of_down)
    b = expected[f"{prefix}.base_layer.lora_B.default.weight"].grad
    of_gate = b.view(len(b), 8, -1)[: len(b) // 2, :4].permute(2, 1, 0)
    assert_close(experts.lora_gate_b.grad, of_gate)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_stacks_of_gpt_oss_change_as_ours_would(tmp_path, use_rslora):
    """Transformers' model with what is written for it; ``gate_up_proj`` has the columns of both in turn."""
    sizes = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "head_dim": 16}
    config = transformers.GptOssConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, num_local_experts=3)
    stacks = [f"layers.{{}}.mlp.experts.{name}_proj" for name in ("gate", "up", "down")]
    path = "model.layers.{}.mlp.experts"
    names = WeightMap(
        HF_DECODER | {f"{path}.gate_up_proj": Columns(tuple(stacks[:2]), True), f"{path}.down_proj": stacks[2]}
    )
    experts = LoRAGroupedExperts(dim=64, hidden_dim=96, rank=2, alpha=6, num_experts=3)
    tensors = {f"layers.0.mlp.experts.{n}": getattr(experts, n).detach().normal_() for n in experts.adapter_params()}
    of_layer = {"layers.0.mlp.experts": 2}
    spec = AdapterSpec(ranks=of_layer, alphas={"layers.0.mlp.experts": 6}, use_rslora=use_rslora)
    write_peft(tmp_path, peft_form(tensors, spec, names, base="base", head_dim=16), None)

    theirs = peft.PeftModel.from_pretrained(transformers.GptOssForCausalLM(config), tmp_path)
    down = theirs.base_model.model.model.layers[0].mlp.experts
    scale = 6 / (2**0.5 if use_rslora else 2)
    change = {s: scale * (getattr(experts, a) @ getattr(experts, b)) for s, (a, b) in experts.adapted.items()}
    assert_close(down.get_delta_weight("default"), change["down_proj"])
    both = torch.stack([change["gate_proj"], change["up_proj"]], -1).flatten(-2)
    assert_close(down.base_layer.get_delta_weight("default"), both)
    loaded = read_adapter(tmp_path / "adapter_model.safetensors", names, head_dim=16, base="base")
    assert loaded.spec.ranks == of_layer and loaded.spec.alphas == spec.alphas
    assert loaded.tensors.keys() == tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in tensors.items())


@in_every_case
@pytest.mark.parametrize("quantize_base", [False, True], ids=["lora", "qlora"])
def test_a_few_steps_learn(name, folder, quantize_base):
    ours = Ours(folder, quantize_base=quantize_base)
    start_adapters(ours.model, seed=0)
    trained = {n: p for n, p in ours.model.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 for p in trained.values()) and any(".experts.lora_" in n for n in trained)
    assert (ours.model.layers[0].mlp.experts.up_proj.dtype == torch.uint8) is quantize_base
    assert ours.model.layers[0].mlp.router.gate.weight.dtype == torch.float32
    optimizer = torch.optim.AdamW(trained.values(), lr=3e-3)
    losses = []
    for _ in range(4):
        losses.append(ours.loss())
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(after < before for before, after in zip(losses, losses[1:]))


@in_every_case
def test_4_bits_are_merged_as_the_model_sees_them(name, folder, tmp_path):
    ours = Ours(folder, quantize_base=True)
    start_adapters(ours.model, seed=0)
    for key, parameter in ours.model.named_parameters():
        if key.endswith(("_b", "lora_b.weight")):
            parameter.data.normal_(0, 0.1)
    assert_close(logits(plain(ours.write(tmp_path / "merged", only=False))), ours.logits())


@pytest.mark.parametrize("name", ["qwen3_moe/30b"])
def test_what_adapters_on_experts_cannot_be_is_told(name, folder):
    family, config = (ours := Ours(folder)).checkpointer.family, ours.checkpointer.config
    build = lambda: family.build(config)  # noqa: E731
    with pytest.raises(ConfigError, match="use_dora: layers.0.mlp.experts are experts, which can have LoRA only"):
        lora(build, ATTENTION, True, use_dora=True)
    narrow = {**config, "moe_intermediate_size": 48}
    with pytest.raises(ConfigError, match="quantize_base: layers.0.mlp.experts has 48 inputs"):
        lora(lambda: family.build(narrow), ["q_proj"], quantize_base=True)
