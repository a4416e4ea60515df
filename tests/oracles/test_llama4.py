"""Llama 4: positions that no cache of angles could hold, and adapters on its experts, against transformers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from family_cases import all_cases
from test_family_adapters import Ours, assert_close, logits, plain
from test_family_parity import ours_like

from torchtune.models.llama4 import Llama4ScaledRoPE
from torchtune.training.adapters import load_adapters, start_adapters

LONGEST = 10_485_760
SCOUT = all_cases()["llama4/scout"]
WIDE = {"intermediate_size": 64, "intermediate_size_mlp": 128}  # so that experts can be quantised in blocks of 64


@torch.no_grad()
def test_ten_million_positions() -> None:
    """All layers have positions, by which alone transformers knows where a token stands."""
    everywhere = {"no_rope_layers": [1] * 5, "attention_chunk_size": 8192, "max_position_embeddings": LONGEST}
    theirs = replace(SCOUT, config={**SCOUT.config, **everywhere}).oracle()
    ours = ours_like(theirs)
    assert ours.max_seq_len == LONGEST and max(buffer.numel() for buffer in ours.buffers()) < 100
    tokens = torch.randint(3, 97, (1, 40), generator=torch.Generator().manual_seed(1))
    positions = torch.linspace(0, LONGEST - 1, 40, dtype=torch.float64).long()[None]
    expected = theirs(tokens, position_ids=positions, attention_mask=torch.ones_like(tokens)).logits
    torch.testing.assert_close(ours(tokens, input_pos=positions), expected, rtol=1e-4, atol=1e-4)
    assert (expected - theirs(tokens).logits).abs().max() > 0.01


def test_documented_positions() -> None:
    rope = Llama4ScaledRoPE(16)
    assert (rope.base, rope.max_seq_len, rope.cos) == (500_000, LONGEST, None)
    plain = 500_000 ** -(torch.arange(0, 16, 2) / 16)
    slow = plain < 2 * torch.pi / 8192
    assert slow.any() and not slow.all()
    torch.testing.assert_close(rope.freqs, torch.where(slow, plain / 16, plain))


@pytest.mark.parametrize("quantize_base", [False, True], ids=["lora", "qlora"])
def test_adapters_on_experts_learn_and_merge(tmp_path: Path, quantize_base: bool) -> None:
    folder = tmp_path / "base"
    mixed = {"interleave_moe_layer_step": 2, "moe_layers": [0, 1, 3]}
    replace(SCOUT, config={**SCOUT.config, **WIDE, **mixed}).oracle().save_pretrained(folder)
    ours = Ours(folder, quantize_base=quantize_base)
    start_adapters(ours.model, seed=0)
    if not quantize_base:
        assert_close(ours.logits(), logits(plain(folder)))
    trained = {n: p for n, p in ours.model.named_parameters() if p.requires_grad}
    assert {"layers.0.mlp.experts.lora_gate_a", "layers.0.mlp.shared_expert.w1.lora_a.weight"} <= trained.keys()
    assert "layers.2.mlp.w2.lora_b.weight" in trained
    optimizer = torch.optim.AdamW(trained.values(), lr=3e-3)
    losses = []
    for _ in range(3):
        losses.append(ours.loss())
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[1] < losses[0]
    assert_close(logits(plain(ours.write(tmp_path / "merged", only=False))), ours.logits())
    again = Ours(folder, quantize_base=quantize_base)
    load_adapters(again.model, again.checkpointer, tmp_path / "merged" / "adapter_model.pt", again.base)
    assert torch.equal(again.logits(), ours.logits())
