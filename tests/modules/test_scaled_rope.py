"""RoPE for longer contexts, against transformers' frequencies and against the embeddings of its models."""

import math

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as turn_all
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as turn_some

from torchtune.errors import CheckpointError
from torchtune.models._rope import Rope
from torchtune.modules import RotaryPositionalEmbeddings
from torchtune.training.model import meta_init, place_buffers

HEAD_DIM, LONGEST = 24, 96
FACTORS = {
    "short_factor": [1 + 0.07 * i for i in range(HEAD_DIM // 2)],
    "long_factor": [1.3**i for i in range(HEAD_DIM // 2)],
}
LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 13} | FACTORS
YARN = {"rope_type": "yarn", "factor": 7.3, "original_max_position_embeddings": 37}
CASES = {
    "linear": {"rope_type": "linear", "factor": 2.7},
    "dynamic": {"rope_type": "dynamic", "factor": 3.9},
    "yarn": YARN,
    "yarn, original context of the model": {"rope_type": "yarn", "factor": 1.9},
    "yarn, its own magnitude": YARN | {"attention_factor": 0.77},
    "yarn, as DeepSeek": YARN | {"mscale": 0.83, "mscale_all_dim": 1.21, "beta_fast": 5.5, "beta_slow": 0.3},
    "yarn, half of that": YARN | {"mscale": 0.83, "mscale_all_dim": 0},
    "yarn, a ramp between pairs": YARN | {"truncate": False, "beta_fast": 11.0, "beta_slow": 1.7},
    "yarn, a ramp without width": YARN | {"beta_fast": 0.2, "beta_slow": 0.2, "truncate": False},
    "yarn, not extended": YARN | {"factor": 1.0},
    "longrope": LONGROPE,
    "longrope, its own factor": LONGROPE | {"factor": 5.1},
    "longrope, its own magnitude": LONGROPE | {"factor": 5.1, "attention_factor": 1.4},
    "longrope, not extended": {"rope_type": "longrope"} | FACTORS,
    "llama3": {
        "rope_type": "llama3", "factor": 5.3, "low_freq_factor": 1.1, "high_freq_factor": 3.7,
        "original_max_position_embeddings": 41,
    },
}  # fmt: skip
POSITIONS = {
    "within": torch.tensor([[3, 0, 12], [1, 11, 7]]),
    "just beyond": torch.tensor([[3, 0, 13], [1, 11, 7]]),
    "the longest": torch.tensor([[95, 0, 12], [1, 50, 7]]),
    "beyond all": torch.tensor([[3, 0, 12], [1, 211, 7]]),
}
in_every_case = pytest.mark.parametrize("parameters", CASES.values(), ids=CASES.keys())


def hf_config(parameters: dict, base: float = 1234.5) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        head_dim=HEAD_DIM,
        max_position_embeddings=LONGEST,
        rope_parameters=dict(parameters) | {"rope_theta": base},
    )


def made(config: dict, **overrides) -> RotaryPositionalEmbeddings:
    return Rope.from_hf(config, interleaved=False, **overrides).module(HEAD_DIM, LONGEST)


@in_every_case
@pytest.mark.parametrize("base", [1234.5, 1e6])
def test_frequencies_and_magnitude_equal_transformers(parameters: dict, base: float) -> None:
    config = hf_config(parameters, base)
    expected, magnitude = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config)
    rope = made(config.to_dict())
    torch.testing.assert_close(rope.frequencies(), expected)
    assert rope.magnitude == pytest.approx(magnitude, rel=1e-12)


@in_every_case
@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS.keys())
def test_turns_as_transformers_does(parameters: dict, positions: torch.Tensor) -> None:
    config = hf_config(parameters)
    rope = made(config.to_dict())
    if rope.cos is not None:  # a cache has no angles beyond the model's context
        positions = positions.clamp(max=LONGEST - 1)
    q, k = torch.randn(2, 2, 3, 4, HEAD_DIM, generator=torch.Generator().manual_seed(0)).unbind()
    expected = turn_all(q, k, *LlamaRotaryEmbedding(config)(q, positions), unsqueeze_dim=2)
    torch.testing.assert_close(rope(q, input_pos=positions), expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rope(k, input_pos=positions), expected[1], rtol=1e-4, atol=1e-5)


@in_every_case
@pytest.mark.parametrize("length", [13, 14, 41, 96])
def test_without_positions_a_sequence_begins_at_zero(parameters: dict, length: int) -> None:
    config = hf_config(parameters)
    x = torch.randn(2, length, 4, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    rope, places = made(config.to_dict()), torch.arange(length)[None]
    expected = turn_all(x, x, *LlamaRotaryEmbedding(config)(x, places), unsqueeze_dim=2)[0]
    torch.testing.assert_close(rope(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(rope(x), rope(x, input_pos=places[0]))


@pytest.mark.parametrize("length", [8, 9, 64])
def test_phi_3_keeps_the_original_context_outside_and_turns_a_part(length: int) -> None:
    factors = {name: values[: HEAD_DIM * 3 // 8] for name, values in FACTORS.items()}
    config = Phi3Config(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        max_position_embeddings=64,
        original_max_position_embeddings=8,
        partial_rotary_factor=0.75,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 5} | factors,
    )
    old = {
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 8,
        "partial_rotary_factor": 0.75,
        "rope_theta": 10_000.0,
        "rope_scaling": {"type": "su"} | factors,
    }
    x = torch.randn(1, length, 4, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    cos, sin = Phi3RotaryEmbedding(config)(x, torch.arange(length)[None])
    expected = turn_some(x, x, cos, sin, unsqueeze_dim=2)[0]
    for given in (config.to_dict(), old):
        rope = made(given)
        assert rope.magnitude == math.sqrt(1 + math.log(8) / math.log(8))
        torch.testing.assert_close(rope(x), expected, rtol=1e-4, atol=1e-5)


def test_parameters_for_a_type_of_layer() -> None:
    config = hf_config(CASES["linear"]).to_dict()
    config["rope_parameters"] = {"full_attention": config["rope_parameters"], "sliding_attention": {"rope_theta": 5.0}}
    full, sliding = (made(config, layer_type=kind) for kind in ("full_attention", "sliding_attention"))
    assert (full.factor, full.base) == (2.7, 1234.5)
    assert (type(sliding), sliding.base) == (RotaryPositionalEmbeddings, 5.0)


@in_every_case
@pytest.mark.parametrize("interleaved", [False, True])
def test_made_without_storage_and_placed_later(parameters: dict, interleaved: bool) -> None:
    rope = Rope.from_hf(hf_config(parameters).to_dict(), interleaved=interleaved)
    expected = rope.module(HEAD_DIM, LONGEST)
    with meta_init(torch.bfloat16):
        late = torch.nn.Sequential(rope.module(HEAD_DIM, LONGEST))
    late.to_empty(device="cpu")
    place_buffers(late, torch.device("cpu"))
    x = torch.randn(1, 50, 2, HEAD_DIM)
    assert torch.equal(late[0](x), expected(x))


@in_every_case
def test_a_compiled_graph_serves_all_positions(parameters: dict) -> None:
    """One graph without a break, and so without asking the device which positions there are."""
    rope = made(hf_config(parameters).to_dict())
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(rope, fullgraph=True, backend=count)
    x = torch.randn(2, 3, 4, HEAD_DIM)
    for positions in POSITIONS.values():
        positions = positions.clamp(max=LONGEST - 1)
        torch.testing.assert_close(compiled(x, input_pos=positions), rope(x, input_pos=positions))
    assert len(graphs) == 1


def test_a_change_of_dtype_leaves_the_angles_as_they_are() -> None:
    for parameters in (CASES["longrope"], CASES["linear"]):
        rope = made(hf_config(parameters).to_dict())
        before = [buffer.clone() for buffer in rope.buffers()]
        after = list(torch.nn.Sequential(rope).to(torch.bfloat16).buffers())
        assert before and all(
            torch.equal(a, b) and a.dtype is torch.float32 for a, b in zip(before, after, strict=True)
        )


@pytest.mark.parametrize("build", [RotaryPositionalEmbeddings, lambda *a: made(hf_config(CASES["yarn"]).to_dict())])
def test_very_many_positions_have_no_cache_and_the_same_angles(build, monkeypatch) -> None:
    x, places = torch.randn(2, 5, 3, HEAD_DIM), torch.tensor([[0, 1, 95, 7, 8], [2, 2, 40, 41, 42]])
    cached = build(HEAD_DIM, LONGEST)
    monkeypatch.setattr(RotaryPositionalEmbeddings, "max_cached_positions", LONGEST - 1)
    uncached = build(HEAD_DIM, LONGEST)
    assert cached.cos.shape == (LONGEST, HEAD_DIM // 2) and uncached.cos is None and uncached.sin is None
    assert torch.equal(uncached(x), cached(x))
    assert torch.equal(uncached(x, input_pos=places), cached(x, input_pos=places))


def test_ten_million_positions_take_no_memory() -> None:
    rope = RotaryPositionalEmbeddings(128, 10_485_760)
    assert sum(buffer.numel() for buffer in rope.buffers()) == 64
    far = torch.tensor([10_485_759])
    x = torch.ones(1, 1, 1, 128)
    angle = 10_485_759 * 10_000 ** (-126 / 128)
    torch.testing.assert_close(
        rope(x, input_pos=far)[0, 0, 0, 126], torch.tensor(math.cos(angle) - math.sin(angle)), rtol=0, atol=1e-3
    )


REFUSED = {
    "a type": ({"rope_type": "spiral"}, "'spiral'.*default, linear, dynamic, yarn, longrope, llama3"),
    "linear lacks": ({"rope_type": "linear"}, r"'linear' lacks \['factor'\]"),
    "linear, unknown": (CASES["linear"] | {"beta_fast": 3}, r"'linear' has unknown \['beta_fast'\]"),
    "dynamic lacks": ({"type": "dynamic"}, r"'dynamic' lacks \['factor'\]"),
    "dynamic, unknown": (
        CASES["dynamic"] | {"original_max_position_embeddings": 9},
        r"'dynamic' has unknown \['original_max_position_embeddings'\]",
    ),
    "yarn, unknown": (YARN | {"beta_quick": 3}, r"'yarn' has unknown \['beta_quick'\]"),
    "longrope lacks": ({"rope_type": "longrope"}, r"'longrope' lacks \['short_factor', 'long_factor'\]"),
    "longrope, unknown": (CASES["longrope"] | {"short_mscale": 1.2}, r"'longrope' has unknown \['short_mscale'\]"),
    "llama3 lacks": ({"rope_type": "llama3", "factor": 8}, r"lacks \['low_freq_factor', 'high_freq_factor'\]"),
    "both": ({"rope_type": "linear", "mscale": 1}, r"lacks \['factor'\] and has unknown \['mscale'\]"),
}


@pytest.mark.parametrize(("parameters", "match"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_known_is_refused_by_name(parameters: dict, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        Rope.from_hf({"max_position_embeddings": LONGEST, "rope_parameters": parameters})


def test_a_context_that_nothing_tells_is_missing() -> None:
    with pytest.raises(CheckpointError, match=r"lacks \['factor', 'original_max_position_embeddings'\]"):
        Rope.from_hf({"rope_scaling": {"type": "yarn"}})
