"""Checkpoints that read images too: their language model, and adapters on it, go to other programs."""

import json

import gguf
import pytest
import torch
from family_models import gemma
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 320}
TEXT |= {"model_type": "gemma3_text", "sliding_window": 11, "query_pre_attn_scalar": 32}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
VISION |= {"image_size": 16, "model_type": "siglip_vision_model"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A tiny Gemma 3 with a part for images."""
    folder = tmp_path_factory.mktemp("text_part") / "whole"
    folder.mkdir()
    rows = gemma(folder)
    parts = {"text_config": TEXT | {"vocab_size": rows}, "vision_config": VISION, "image_token_index": rows - 1}
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model("gemma3", mm_tokens_per_image=16, **parts))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(whole, tmp_path):
    torch.manual_seed(1)
    targets = r".*language_model.*\.(q_proj|down_proj)"
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(whole), LoraConfig(r=4, target_modules=targets))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.2)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_gguf_file_of_the_language_model(whole, export):
    target = export(whole, "gguf", quantize="f32", verify=True)
    names = {tensor.name for tensor in gguf.GGUFReader(next(target.glob("*.gguf"))).tensors}
    assert "blk.1.attn_q_norm.weight" in names and len(names) == 2 + 2 * 13


@torch.no_grad()
def test_an_adapter_merged_and_alone(whole, adapter, export):
    ids = torch.randint(10, 600, (2, 30), generator=torch.Generator().manual_seed(0))
    base = AutoModelForImageTextToText.from_pretrained(whole)
    plain = base(ids).logits
    expected = PeftModel.from_pretrained(base, adapter).eval()(ids).logits
    assert (expected - plain).abs().max() > 0.1
    merged = AutoModelForCausalLM.from_pretrained(export(adapter, "hf", base=whole, verify=True)).eval()
    torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-4)
    again = export(adapter, "peft", base=whole, verify=True)
    found = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(whole), again).eval()(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    report = json.loads((again / "verify.json").read_text())
    assert report["logits"]["max_abs_difference"] <= report["logits"]["tolerance"]
