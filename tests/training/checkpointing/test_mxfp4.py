"""gpt-oss as it is released, its experts in MXFP4, against transformers' reading of the same files."""

import json
import logging
from pathlib import Path

import pytest
import torch
import transformers
from family_cases import all_cases
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from torchtune.errors import CheckpointError
from torchtune.models._adapters import lora
from torchtune.modules.low_precision.mxfp4 import dequantize_mxfp4
from torchtune.training.adapters import BaseWeights, start_adapters
from torchtune.training.checkpointing import FullModelHFCheckpointer
from torchtune.training.contents import contents_of
from torchtune.training.distributed import World
from torchtune.training.model import load_model

ALONE = World(0, 1, torch.device("cpu"))
NOT_CONVERTED = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
SETTINGS = {"quantization_config": {"modules_to_not_convert": NOT_CONVERTED, "quant_method": "mxfp4"}}


def packed(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Blocks and exponents of a stack [E, in, out]."""
    generator = torch.Generator().manual_seed(seed)
    experts, inputs, outputs = shape
    blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(121, 126, blocks.shape[:3], dtype=torch.uint8, generator=generator)
    return blocks, scales


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in bfloat16 whose experts are replaced by random MXFP4."""
    path = tmp_path / "released"
    all_cases()["gpt_oss/20b"].oracle().bfloat16().save_pretrained(path)
    tensors = load_file(path / "model.safetensors")
    for seed, name in enumerate([n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]):
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = packed(tensors.pop(name).shape, seed)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | SETTINGS))
    return path


def build(checkpointer: FullModelHFCheckpointer):
    return checkpointer.family.build(checkpointer.config)


def tokens() -> Tensor:
    return torch.randint(3, 97, (2, 31), generator=torch.Generator().manual_seed(1))


def theirs(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()


def test_values_are_those_of_transformers() -> None:
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 255, 1, 1)
    scales = torch.arange(255, dtype=torch.uint8).view(1, 255, 1).repeat(1, 1, 16)  # 255 is not a number
    found, expected = dequantize_mxfp4(blocks, scales), convert_moe_packed_tensors(blocks, scales)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.transpose(1, 2), expected)


@torch.no_grad()
def test_the_model_is_that_of_transformers(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpointer = FullModelHFCheckpointer(folder)
    with caplog.at_level(logging.INFO):
        ours = load_model(lambda: build(checkpointer), checkpointer.weights, ALONE, dtype=torch.float32).eval()
    assert "the experts in" in caplog.text and "MXFP4; they are taken as bfloat16, and saved so" in caplog.text
    torch.testing.assert_close(ours(tokens()), theirs(folder)(tokens()).logits, rtol=1e-4, atol=1e-4)


def test_what_is_saved_is_bfloat16_and_says_so(folder: Path, tmp_path: Path) -> None:
    checkpointer = FullModelHFCheckpointer(folder, output_dir=tmp_path / "out")
    with torch.device("meta"):
        native = build(checkpointer).state_dict()
    assert {dtype for _, dtype in checkpointer.saved_as(native).values()} == {torch.bfloat16}
    checkpointer.save_checkpoint({"model": dict(checkpointer.weights(native))}, epoch=0)
    written = tmp_path / "out" / "epoch_0"
    assert "quantization_config" not in json.loads((written / "config.json").read_text())
    found = {k: v for file in written.glob("*.safetensors") for k, v in load_file(file).items()}
    stacks = {name.removesuffix("_blocks") for name in load_file(folder / "model.safetensors") if "_blocks" in name}
    assert stacks and stacks <= found.keys() and not any(name.endswith(("_blocks", "_scales")) for name in found)
    released = load_file(folder / "model.safetensors")
    for name, tensor in found.items():
        parts = [released[f"{name}_{part}"] for part in ("blocks", "scales")] if name in stacks else []
        expected = convert_moe_packed_tensors(*parts) if parts else released[name]
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, expected), name
    again = dict(FullModelHFCheckpointer(written).weights(native))
    assert all(torch.equal(tensor, again[name]) for name, tensor in checkpointer.weights(native))


@torch.no_grad()
def test_adapters_merge_into_bfloat16(folder: Path, tmp_path: Path) -> None:
    checkpointer = FullModelHFCheckpointer(folder)
    base = BaseWeights(checkpointer)
    adapted = lambda: lora(lambda: build(checkpointer), ["q_proj"], lora_rank=2)  # noqa: E731
    model = load_model(adapted, base.weights, ALONE, dtype=torch.float32).eval()
    start_adapters(model, seed=0)
    model.layers[1].attn.q_proj.lora_b.weight.normal_()
    merged = tmp_path / "merged"
    merged.mkdir()
    contents_of(model, checkpointer, base, ALONE).write(merged)
    expected = theirs(folder)
    q_proj = model.layers[1].attn.q_proj
    update = q_proj.lora_b.weight @ q_proj.lora_a.weight * (q_proj.alpha / q_proj.rank)
    weight = expected.model.layers[1].self_attn.q_proj.weight
    weight.copy_((weight + update).bfloat16())
    torch.testing.assert_close(theirs(merged)(tokens()).logits, expected(tokens()).logits, rtol=1e-4, atol=1e-4)


def test_blocks_without_exponents_are_told(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.experts.down_proj_scales"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpointer = FullModelHFCheckpointer(folder)
    with torch.device("meta"):
        native = build(checkpointer).state_dict()
    with pytest.raises(CheckpointError, match="layers.1.mlp.experts.down_proj(.|\n)*down_proj_blocks"):
        checkpointer.weights(native)
