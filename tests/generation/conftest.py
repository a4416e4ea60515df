"""A small Llama with weights that spread its logits."""

import pytest
import torch

from torchtune.models.llama3_2 import llama3_2


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 32}
    made = llama3_2(**sizes, intermediate_dim=64, max_seq_len=48)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return made.eval()
