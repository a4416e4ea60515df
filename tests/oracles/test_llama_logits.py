"""Llama's logits against transformers and against Meta's own implementation, on tiny random weights."""

import os

import pytest
import torch
import transformers

from torchtune.models import family_of
from torchtune.models.llama2 import llama2
from torchtune.models.llama3 import llama3
from torchtune.models.llama3_1 import llama3_1
from torchtune.models.llama3_2 import llama3_2

TINY = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BUILDER_ARGS = {
    "vocab_size": 97,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 64,
    "max_seq_len": 64,
    "intermediate_dim": 96,
    "norm_eps": 1e-5,
}


def scaled(factor: float) -> dict:
    """RoPE scaling whose old context ends early enough that 64 positions show it."""
    return {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


MULTI_HEAD = {"num_key_value_heads": 4}
CASES = {
    "llama2": (TINY | MULTI_HEAD, lambda: llama2(**BUILDER_ARGS | {"num_kv_heads": 4})),
    "llama2_70b_grouped": (TINY, lambda: llama2(**BUILDER_ARGS)),
    "code_llama2": (
        TINY | MULTI_HEAD | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        lambda: llama2(**BUILDER_ARGS | {"num_kv_heads": 4}, rope_base=1e6),
    ),
    "llama3": (
        TINY | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        lambda: llama3(**BUILDER_ARGS),
    ),
    "llama3_1": (TINY | {"rope_parameters": scaled(8.0)}, lambda: llama3_1(**BUILDER_ARGS)),
    "llama3_2": (
        TINY | {"rope_parameters": scaled(32.0), "tie_word_embeddings": True},
        lambda: llama3_2(**BUILDER_ARGS),
    ),
    "llama3_2_untied": (
        TINY | {"rope_parameters": scaled(32.0)},
        lambda: llama3_2(**BUILDER_ARGS, tie_word_embeddings=False),
    ),
    "llama3_3": (TINY | {"rope_parameters": scaled(8.0)}, lambda: llama3_1(**BUILDER_ARGS)),
}


def oracle(config: dict) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM._from_config(transformers.LlamaConfig(**config), attn_implementation="eager")
    for p in model.parameters():
        p.data.normal_(0, 0.3)
    return model.eval()


def load_from(theirs: transformers.LlamaForCausalLM, ours: torch.nn.Module) -> torch.nn.Module:
    config = theirs.config.to_dict()
    state = family_of(config).hf.to_native(theirs.state_dict(), ours.state_dict(), head_dim=ours.head_dim)
    ours.load_state_dict(state)
    return ours.eval()


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case: str) -> None:
    config, build = CASES[case]
    theirs = oracle(config)
    ours = load_from(theirs, build())
    tokens = torch.randint(0, 97, (2, 47))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_config_json_gives_the_same_model_as_the_builder(case: str) -> None:
    config, build = CASES[case]
    hf_config = transformers.LlamaConfig(**config).to_dict()
    from_config, from_builder = family_of(hf_config).build(hf_config), build()
    from_config.load_state_dict(from_builder.state_dict())
    tokens = torch.randint(0, 97, (1, 33))
    assert torch.equal(from_config(tokens), from_builder(tokens))


def test_gradients_equal_transformers() -> None:
    config, build = CASES["llama3_2"]
    theirs = oracle(config)
    ours = load_from(theirs, build())
    tokens, weight = torch.randint(0, 97, (2, 19)), torch.randn(2, 19, 97)
    (ours(tokens) * weight).sum().backward()
    (theirs(tokens).logits * weight).sum().backward()
    for name in ("mlp.w2", "attn.v_proj"):
        foreign = {"mlp.w2": "mlp.down_proj", "attn.v_proj": "self_attn.v_proj"}[name]
        expected = theirs.get_parameter(f"model.layers.1.{foreign}.weight").grad
        torch.testing.assert_close(ours.get_parameter(f"layers.1.{name}.weight").grad, expected, rtol=1e-4, atol=1e-4)
    expected = theirs.get_parameter("model.embed_tokens.weight").grad
    torch.testing.assert_close(ours.tok_embeddings.weight.grad, expected, rtol=1e-4, atol=1e-3)


def test_cache_gives_the_logits_of_the_whole_sequence() -> None:
    config, build = CASES["llama3_1"]
    ours = load_from(oracle(config), build())
    tokens = torch.randint(0, 97, (2, 21))
    with torch.no_grad():
        whole = ours(tokens)
        ours.setup_caches(2, torch.float32, decoder_max_seq_len=32)
        pieces = [ours(piece) for piece in tokens.split([11, 1, 1, 8], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-4)


def test_documents_in_a_pack_do_not_see_each_other() -> None:
    from torchtune.modules import packed_block_causal_mask

    config, build = CASES["llama3"]
    ours = load_from(oracle(config), build())
    lens = [7, 1, 12]
    tokens = torch.randint(0, 97, (1, sum(lens)))
    positions = torch.cat([torch.arange(n) for n in lens])[None]
    with torch.no_grad():
        packed = ours(tokens, mask=packed_block_causal_mask([torch.tensor(lens)]), input_pos=positions)
        alone = torch.cat([ours(piece) for piece in tokens.split(lens, dim=1)], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


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
    ours = build(**BUILDER_ARGS | {"num_layers": 2, "intermediate_dim": width}).eval()
    ours.load_state_dict(LLAMA.meta.to_native(theirs.state_dict(), ours.state_dict(), head_dim=16))
    tokens = torch.randint(0, 97, (2, 41))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens, 0), rtol=1e-4, atol=1e-4)
