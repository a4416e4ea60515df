"""A model with experts, trained by the recipe: in one process and in two, in full and by adapters, compiled."""

import pytest
import torch
import transformers
from test_one_equals_two import assert_same_training
from tiny_run import TinyRun

EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
SIZES = {"vocab_size": 271, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 320}
MODEL = {
    "_component_": "torchtune.models.qwen3_moe.qwen3_moe",
    "vocab_size": 271,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 64,
    "intermediate_dim": 128,
    "moe_intermediate_dim": 64,
    "max_seq_len": 320,
    "head_dim": 16,
    "rope_base": 10000,
    "num_experts": 5,
    "experts_per_token": 2,
}
LORA = {
    "_component_": "torchtune.models.qwen3_moe.lora_qwen3_moe",
    "lora_attn_modules": "[q_proj,v_proj]",
    "apply_lora_to_mlp": True,
    "lora_rank": 4,
    "lora_alpha": 8,
}
METHODS = {
    "full": ["enable_activation_checkpointing=True"],
    "lora": ["recipe=lora_finetune_single_device", *(f"model.{key}={value}" for key, value in LORA.items())],
}
METHODS["qlora"] = [*METHODS["lora"], "model.quantize_base=True"]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory) -> TinyRun:
    tiny = TinyRun(tmp_path_factory.mktemp("sparse"))
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(**SIZES, **HEADS, **EXPERTS, dtype="float32")
    transformers.Qwen3MoeForCausalLM(config).save_pretrained(tiny.root / "sparse")
    return tiny


def words(tiny: TinyRun, method: str) -> list[str]:
    model = [f"model={{{','.join(f'{key}: {value}' for key, value in MODEL.items())}}}"]
    where = [f"checkpointer.checkpoint_dir={tiny.root / 'sparse'}", "checkpointer.model_type=QWEN3_MOE"]
    return [*model, *where, "max_steps_per_epoch=3", *METHODS[method]]


@pytest.mark.parametrize("method", METHODS)
def test_one_process_equals_two_and_transformers_opens_what_was_saved(sparse, method):
    done = sparse.run(f"one-{method}", "batch_size=2", *words(sparse, method))
    assert done.code == 0, done.err
    done = sparse.run(f"two-{method}", "batch_size=1", *words(sparse, method), processes=2)
    assert done.codes == [0, 0], done.err
    assert_same_training(sparse, f"one-{method}", f"two-{method}")
    losses = list(sparse.metrics(f"one-{method}", "loss").values())
    assert losses[-1] < losses[0]
    saved = sparse.root / f"one-{method}" / "epoch_0"
    _, info = transformers.AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))


def test_compiled_layers_train_alike(sparse, monkeypatch):
    monkeypatch.setenv("TORCH_COMPILE_BACKEND", "aot_eager")
    for out, compiled in (("plain", False), ("compiled", True)):
        done = sparse.run(out, "batch_size=2", *words(sparse, "full"), compile=compiled)
        assert done.code == 0, done.err
    assert_same_training(sparse, "plain", "compiled")
