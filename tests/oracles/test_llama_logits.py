"""Llama's logits against Meta's own implementation, on tiny random weights; against transformers see
``test_family_parity.py``.
"""

import os

import pytest
import torch

from torchtune.models.llama3 import llama3
from torchtune.models.llama3_1 import llama3_1

BUILDER_ARGS = {
    "vocab_size": 97,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 64,
    "max_seq_len": 64,
    "norm_eps": 1e-5,
}


@pytest.fixture
def meta_process_group():
    import torch.distributed as dist
    from fairscale.nn.model_parallel.initialize import destroy_model_parallel, initialize_model_parallel

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    initialize_model_parallel(1)
    yield
    destroy_model_parallel()
    dist.destroy_process_group()
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


@pytest.mark.parametrize("use_scaled_rope", [False, True])
def test_logits_equal_metas_implementation(meta_process_group: None, use_scaled_rope: bool) -> None:
    from llama_models.llama3.args import ModelArgs
    from llama_models.llama3.model import Transformer

    from torchtune.models._llama import LLAMA

    torch.manual_seed(0)
    sizes = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 97, "multiple_of": 32}
    rope = {"rope_theta": 5e5, "use_scaled_rope": use_scaled_rope}
    theirs = Transformer(ModelArgs(**sizes, **rope, max_seq_len=64, max_batch_size=2, norm_eps=1e-5))
    for p in theirs.parameters():
        p.data.normal_(0, 0.3)
    width = theirs.layers[0].feed_forward.w1.weight.shape[0]
    build = llama3_1 if use_scaled_rope else llama3
    ours = build(**BUILDER_ARGS, num_layers=2, intermediate_dim=width).eval()
    ours.load_state_dict(LLAMA.meta.to_native(theirs.state_dict(), ours.state_dict(), head_dim=16))
    tokens = torch.randint(0, 97, (2, 41))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens, 0), rtol=1e-4, atol=1e-4)
