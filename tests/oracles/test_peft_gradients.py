"""One training step with adapters against PEFT on a tiny Llama of transformers: the loss and every gradient."""

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

from torchtune.models._llama import LLAMA
from torchtune.models._peft import peft_reads
from torchtune.models.llama3 import llama3, lora_llama3
from torchtune.modules.loss import LinearCrossEntropyLoss
from torchtune.training.loss import count_targets, summed_loss

SIZES = {"vocab_size": 97, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "max_seq_len": 64}
SIZES |= {"intermediate_dim": 128, "norm_eps": 1e-5}
HEAD_DIM = 16
CONFIG = transformers.LlamaConfig(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 5e5},
)
ATTENTION = ["q_proj", "k_proj", "v_proj", "output_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
# case: settings of our builder, PEFT's
CASES = {
    "lora": ({}, {}),
    "rslora": ({"use_rslora": True}, {"use_rslora": True}),
    "dora": ({"use_dora": True}, {"use_dora": True}),
    "rsdora_mlp": (
        {"use_dora": True, "use_rslora": True, "apply_lora_to_mlp": True},
        {"use_dora": True, "use_rslora": True, "target_modules": MLP},
    ),
    "mlp": ({"apply_lora_to_mlp": True}, {"target_modules": MLP}),
    "output": ({"apply_lora_to_output": True}, {"target_modules": ["lm_head"]}),
    "dora_output": (
        {"apply_lora_to_output": True, "use_dora": True},
        {"target_modules": ["lm_head"], "use_dora": True},
    ),
    "ranks_of_modules": (
        {
            "apply_lora_to_mlp": True,
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.w2": 7},
            "alpha_pattern": {"v_proj": 3, "layers.0.attn.q_proj": 5},
        },
        {
            "target_modules": MLP,
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 7},
            "alpha_pattern": {"v_proj": 3, "layers.0.self_attn.q_proj": 5},
        },
    ),
    "norms_and_embedding_in_full": (
        {"trainable_modules": ["sa_norm", "norm", "tok_embeddings"]},
        {"modules_to_save": ["input_layernorm", "model.norm", "embed_tokens"]},
    ),
}


def theirs(target_modules=(), **settings) -> nn.Module:
    """PEFT's model, whose adapters have changed since they began."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM._from_config(CONFIG, attn_implementation="eager")
    for p in model.parameters():
        p.data.normal_(0, 0.2)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", *target_modules]
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(model, config)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.normal_(0, 0.2)
        elif "magnitude" in name:
            p.data *= torch.rand_like(p) + 0.5
    return model


def native(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors, or gradients, of PEFT's model that are trained, by our names and in our order of channels."""
    reads = peft_reads(LLAMA.hf, {name: tuple(t.shape) for name, t in tensors.items()}, head_dim=HEAD_DIM)
    return {read.native: read.make(lambda name, rows: tensors[name]) for read in reads}


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def load_base(model: nn.Module, source: nn.Module) -> None:
    plain = source.get_base_model() if isinstance(source, peft.PeftModel) else source
    state = {n.replace(".base_layer", ""): t for n, t in plain.state_dict().items() if "lora_" not in n}
    state = {n.replace(".original_module", ""): t for n, t in state.items() if "modules_to_save" not in n}
    shapes = llama3(**SIZES).state_dict()
    model.load_state_dict(LLAMA.hf.to_native(state, shapes, head_dim=HEAD_DIM), strict=False)


def batch() -> dict[str, Tensor]:
    tokens = torch.randint(0, 97, (3, 21), generator=torch.Generator().manual_seed(1))
    labels = tokens.clone()
    labels[0, :9] = labels[2, 15:] = -100
    return {"tokens": tokens, "labels": labels}


def our_loss(model: nn.Module) -> Tensor:
    return summed_loss(LinearCrossEntropyLoss(), model)(model, batch()) / count_targets(batch())


def compare(ours: nn.Module, oracle: nn.Module) -> None:
    given = batch()
    expected, found = oracle(given["tokens"], labels=given["labels"]).loss, our_loss(ours)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    found.backward(), expected.backward()
    gradients = native({name: p.grad for name, p in trained(oracle).items()})
    mine = {name: p.grad for name, p in trained(ours).items()}
    assert mine.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (mine[name] - gradient).norm() < 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_pefts(case):
    settings, peft_settings = CASES[case]
    oracle = theirs(**peft_settings)
    ours = lora_llama3(ATTENTION, **SIZES, lora_rank=4, lora_alpha=6, **settings)
    load_base(ours, oracle)
    ours.load_state_dict(native(trained(oracle)), strict=False)
    compare(ours, oracle)


@pytest.mark.parametrize("use_dora", [False, True], ids=["qlora", "qdora"])
def test_a_quantised_base_gives_pefts_gradients_on_the_dequantised_weights(use_dora):
    oracle = theirs(target_modules=MLP, use_dora=use_dora)
    ours = lora_llama3(ATTENTION, True, **SIZES, lora_rank=4, lora_alpha=6, quantize_base=True, use_dora=use_dora)
    load_base(ours, oracle)
    ours.load_state_dict(native(trained(oracle)), strict=False)
    rounded = {name: t for name, t in ours.state_dict().items() if "lora_" not in name and "magnitude" not in name}
    for name, tensor in LLAMA.hf.to_foreign(rounded, head_dim=HEAD_DIM).items():
        layer = oracle.get_base_model().get_submodule(name.removesuffix(".weight"))
        getattr(layer, "base_layer", layer).weight.data.copy_(tensor)
    compare(ours, oracle)
