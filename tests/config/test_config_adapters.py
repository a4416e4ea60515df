"""Adapters in a config: what they may be, which recipe trains them, and what vLLM is told to serve them."""

import logging

import pytest

from torchtune.config import check, load, notes, read_config
from torchtune.config.schema import FinetuneConfig

LORA, PLAIN = "torchtune.models.llama3.lora_llama3_8b", "torchtune.models.llama3.llama3_8b"
MODEL = f"model={{_component_: {LORA}, lora_attn_modules: [q_proj, v_proj]}}"


def faults(*words: str) -> list[str]:
    return [str(p).removeprefix("command line: ") for p in check(load("config.yaml", words), FinetuneConfig)]


@pytest.mark.parametrize(
    "words",
    [
        ["model.lora_attn_modules=[q_proj, k_proj, v_proj, output_proj]", "model.apply_lora_to_output=True"],
        ["model.lora_attn_modules=[]", "model.apply_lora_to_mlp=True"],
        ["model.lora_attn_modules=[]", "model.trainable_modules=[norm]"],
        ["model.lora_rank=1", "model.lora_alpha=0.5", "model.lora_dropout=0.99"],
        ["model.rank_pattern={w2: 4, layers.0.attn.q_proj: 2}", "model.alpha_pattern={w2: 0.1}"],
        ["model.rank_pattern=null", "model.use_dora=True", "model.quantize_base=True"],
        ["resize_token_embeddings=True", "model.trainable_modules=[norm, tok_embeddings]"],
        ["save_adapter_weights_only=True", "recipe=lora_finetune_distributed"],
    ],
)
def test_possible_adapters(parts, words):
    assert faults(MODEL, *words) == []


@pytest.mark.parametrize(
    "word, said",
    [
        ("lora_attn_modules=q_proj", ["lora_attn_modules must be a list of some of q_proj, k_proj", "found q_proj"]),
        ("lora_attn_modules=null", ["must be a list", "found null"]),
        ("lora_attn_modules=[]", ["nothing is trained", "apply_lora_to_mlp: True"]),
        ("lora_attn_modules=[q_porj]", ["found 'q_porj'. Did you mean 'q_proj'?"]),
        ("lora_attn_modules=[o_proj]", ["o_proj is called output_proj here"]),
        ("lora_attn_modules=[q_proj, up_proj]", ["up_proj is of the feed-forward", "apply_lora_to_mlp: True"]),
        ("lora_attn_modules=[w1]", ["apply_lora_to_mlp: True"]),
        ("lora_attn_modules=[lm_head]", ["apply_lora_to_output: True"]),
        ("lora_attn_modules=[embed_tokens]", ["trainable_modules: [tok_embeddings]"]),
        ("lora_rank=0", ["model.lora_rank must be a whole number of at least 1, found 0"]),
        ("lora_rank=8.5", ["a whole number", "8.5"]),
        ("lora_rank=8x", ["a whole number", "'8x'"]),
        ("lora_rank=null", ["a whole number", "null"]),
        ("lora_alpha=0", ["model.lora_alpha must be a number of more than 0, found 0"]),
        ("lora_dropout=1", ["model.lora_dropout must be a number of at least 0 and less than 1, found 1"]),
        ("lora_dropout=-0.1", ["at least 0"]),
        ("use_dora=1", ["model.use_dora must be True or False, found 1"]),
        ("quantize_base=nf4", ["model.quantize_base must be True or False, found 'nf4'"]),
        ("rank_pattern={w2: 0}", ["model.rank_pattern.w2 must be a whole number of at least 1"]),
        ("alpha_pattern={layers.0.attn.q_proj: -1}", ["alpha_pattern.layers.0.attn.q_proj", "more than 0"]),
        ("rank_pattern=[8]", ["model.rank_pattern must be a mapping"]),
        ("trainable_modules=tok_embeddings", ["model.trainable_modules must be a list of modules, found tok_"]),
        ("lora_ranc=3", ["does not take 'lora_ranc'. Did you mean 'lora_rank'?"]),
    ],
)
def test_one_fault_for_each_argument_that_cannot_be(parts, word, said):
    (message,) = faults(MODEL, f"model.{word}")
    assert all(part in message for part in said), message


def test_faults_of_adapters_come_at_once_with_their_lines(parts):
    text = (parts / "config.yaml").read_text()
    node = f"  _component_: {LORA}\n  lora_attn_modules: [k_prj, o_proj]\n  lora_rank: 0\n"
    old = "  _component_: torch.nn.Linear\n  in_features: 4\n  out_features: 2\n"
    (parts / "bad.yaml").write_text(text.replace(old, node))
    assert [p.line for p in check(load("bad.yaml"), FinetuneConfig)] == [4, 4, 5]


@pytest.mark.parametrize(
    "word, right",
    [
        ("lora_ranc=3", "'model.lora_rank'"),
        ("lora_rank=3", "write it as model.lora_rank"),
        ("weightdecay=1", "optimizer.weight_decay"),
    ],
)
def test_an_argument_at_the_top_level_is_shown_its_place(parts, word, right):
    (message,) = faults(MODEL, word)
    assert "is not a key of this recipe" in message and right in message


def test_a_resized_vocabulary_wants_trained_embeddings(parts):
    (message,) = faults(MODEL, "resize_token_embeddings=True")
    assert "trainable_modules: [tok_embeddings]" in message
    assert faults("resize_token_embeddings=True") == []


@pytest.mark.parametrize(
    "model, words, said",
    [
        (LORA, ["recipe=full_finetune_distributed"], f"use {PLAIN}, or the recipe lora_finetune_distributed"),
        (PLAIN, ["recipe=lora_finetune_single_device"], f"use {LORA}, or the recipe full_finetune_single_device"),
        (PLAIN, ["save_adapter_weights_only=True"], "set it to False"),
        ("torchtune.models.llama2.qlora_llama2_7b", ["recipe=full_finetune_single_device"], ".llama2_7b, or the"),
        ("torchtune.modules.RMSNorm", ["recipe=lora_finetune_single_device"], "a builder that takes lora_attn_modules"),
    ],
)
def test_recipe_and_model_agree(parts, model, words, said):
    arguments = ", lora_attn_modules: [q_proj]" if "lora_" in model else ", dim: 4" if "RMS" in model else ""
    (message,) = faults(f"model={{_component_: {model}{arguments}}}", *words)
    assert model in message and said in message


@pytest.mark.parametrize("recipe", ["lora_finetune_single_device", "full_finetune_single_device"])
def test_a_builder_of_the_users_own_is_left_to_them(parts, recipe):
    (parts / "own.py").write_text("def build(lora_attn_modules): ...\ndef plain(): ...\n")
    for model in ("{_component_: own.build, lora_attn_modules: [q_proj]}", "{_component_: own.plain}"):
        assert faults(f"model={model}", f"recipe={recipe}", "save_adapter_weights_only=True") == []
    (message,) = faults("model={_component_: own.build, lora_attn_modules: [qproj]}")
    assert "Did you mean 'q_proj'?" in message


@pytest.mark.parametrize(
    "words, said",
    [
        ([], []),
        (["model.lora_rank=16", "model.use_rslora=True", "model.quantize_base=True"], []),
        (["model.lora_rank=17"], ["to serve rank 17, vLLM's max_lora_rank has to be 32 (default 16)"]),
        (["model.rank_pattern={w2: 300}"], ["to serve rank 300, vLLM's max_lora_rank has to be 320 (default 16)"]),
        (["model.lora_rank=513"], ["no adapter of a rank over 512 (the largest here is 513); it serves the merged"]),
        (["model.use_dora=True", "model.lora_rank=64"], ["no DoRA adapter; it serves the merged weights, which are"]),
        (
            ["model.use_dora=True", "model.trainable_modules=[norm]", "save_adapter_weights_only=True"],
            ["no DoRA adapter; it serves the merged weights, which save_adapter_weights_only: False saves", "modules;"],
        ),
    ],
)
def test_what_vllm_does_not_serve_is_said(parts, words, said):
    loaded = load("config.yaml", [MODEL, *words])
    assert check(loaded, FinetuneConfig) == []
    found = [note for note in notes(loaded, FinetuneConfig) if "vLLM" in note]
    assert len(found) == len(said) and all(part in note for part, note in zip(said, found))


def test_a_run_says_it_too(parts, caplog):
    with caplog.at_level(logging.INFO):
        cfg = read_config(load("config.yaml", [MODEL, "model.lora_rank=32"]), FinetuneConfig)
    assert cfg.save_adapter_weights_only is False
    assert [r.levelname for r in caplog.records if "max_lora_rank has to be 32" in r.getMessage()] == ["INFO"]
