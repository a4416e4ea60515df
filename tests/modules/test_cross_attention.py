"""The cross-attention layer against Llama 3.2 Vision's in transformers, and its cache."""

import pytest
import torch
from torch import nn

from torchtune.modules import FeedForward, MultiHeadAttention, RMSNorm, RotaryPositionalEmbeddings
from torchtune.modules.cross_attention import TransformerCrossAttentionLayer
from torchtune.modules.tanh_gate import TanhGate

D, F, N, K, H = 16, 24, 4, 2, 4


def linear(rows, columns):
    return nn.Linear(columns, rows, bias=False)


def attention(**kwargs):
    return MultiHeadAttention(
        embed_dim=D,
        num_heads=N,
        num_kv_heads=K,
        head_dim=H,
        q_proj=linear(N * H, D),
        k_proj=linear(K * H, D),
        v_proj=linear(K * H, D),
        output_proj=linear(D, N * H),
        q_norm=RMSNorm(H, eps=1e-5),
        k_norm=RMSNorm(H, eps=1e-5),
        is_causal=False,
        **kwargs,
    )


def make_layer():
    torch.manual_seed(0)
    layer = TransformerCrossAttentionLayer(
        attention(),
        FeedForward(gate_proj=linear(F, D), down_proj=linear(D, F), up_proj=linear(F, D)),
        ca_norm=RMSNorm(D, eps=1e-5),
        mlp_norm=RMSNorm(D, eps=1e-5),
        ca_scale=TanhGate(),
        mlp_scale=TanhGate(),
    )
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    return layer


def inputs():
    torch.manual_seed(1)
    mask = torch.rand(2, 3, 5) < 0.5
    mask[:, 1], mask[0, 0] = True, False
    return torch.randn(2, 3, D), torch.randn(2, 5, D), mask


NAMES = {
    "cross_attn.q_proj.weight": "attn.q_proj.weight",
    "cross_attn.k_proj.weight": "attn.k_proj.weight",
    "cross_attn.v_proj.weight": "attn.v_proj.weight",
    "cross_attn.o_proj.weight": "attn.output_proj.weight",
    "cross_attn.q_norm.weight": "attn.q_norm.scale",
    "cross_attn.k_norm.weight": "attn.k_norm.scale",
    "mlp.gate_proj.weight": "mlp.w1.weight",
    "mlp.down_proj.weight": "mlp.w2.weight",
    "mlp.up_proj.weight": "mlp.w3.weight",
    "input_layernorm.weight": "ca_norm.scale",
    "post_attention_layernorm.weight": "mlp_norm.scale",
    "cross_attn_attn_gate": "ca_scale.scale",
    "cross_attn_mlp_gate": "mlp_scale.scale",
}


@pytest.fixture(scope="module")
def oracle():
    from transformers.models.mllama.configuration_mllama import MllamaTextConfig
    from transformers.models.mllama.modeling_mllama import MllamaCrossAttentionDecoderLayer

    config = MllamaTextConfig(
        hidden_size=D, intermediate_size=F, num_attention_heads=N, num_key_value_heads=K, rms_norm_eps=1e-5
    )
    config._attn_implementation = "eager"
    theirs, ours = MllamaCrossAttentionDecoderLayer(config, 0).eval(), make_layer().state_dict()
    theirs.load_state_dict({name: ours[NAMES[name]] for name in theirs.state_dict()})
    return theirs


def test_equals_transformers(oracle):
    x, encoded, mask = inputs()
    sees = mask.any(-1)[..., None].float()
    additive = torch.zeros(mask.shape).masked_fill(~mask & mask.any(-1, keepdim=True), -1e9)[:, None]
    theirs = oracle(
        x,
        cross_attention_states=encoded,
        cross_attention_mask=additive,
        attention_mask=None,
        full_text_row_masked_out_mask=sees[:, None],
    )
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    ours = make_layer()(x, encoder_input=encoded, encoder_mask=mask)
    rows = mask.any(-1)
    torch.testing.assert_close(ours[rows], theirs[rows], rtol=1e-5, atol=1e-5)


def test_who_may_see_nothing_passes_unchanged_and_gets_finite_gradients():
    x, encoded, mask = inputs()
    layer = make_layer()
    out = layer(x, encoder_input=encoded, encoder_mask=mask)
    blind = ~mask.any(-1)
    assert blind.any() and torch.equal(out[blind], x[blind]) and not torch.equal(out[~blind], x[~blind])
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_without_encoder_and_cache_x_passes():
    x, _, _ = inputs()
    assert make_layer()(x) is x


def test_later_tokens_read_the_encoder_from_the_cache():
    x, encoded, mask = inputs()
    layer = make_layer().eval()
    whole = layer(x, encoder_input=encoded, encoder_mask=mask)
    layer.setup_caches(2, torch.float32, encoder_max_seq_len=5, decoder_max_seq_len=None)
    assert layer.caches_are_setup() and layer.caches_are_enabled()
    first = layer(x[:, :1], encoder_input=encoded, encoder_mask=mask[:, :1])
    rest = layer(x[:, 1:], encoder_mask=mask[:, 1:])
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    layer.reset_cache()
    assert layer(x) is x


def test_positions_are_refused():
    with pytest.raises(ValueError, match="no positional embeddings"):
        TransformerCrossAttentionLayer(attention(pos_embeddings=RotaryPositionalEmbeddings(H)), nn.Identity())
