"""GGUF files of each architecture, read by the package gguf, by transformers where it can, and by llama.cpp where that
is installed.
"""

import json
import shutil

import gguf
import pytest
import torch
from export_models import edit
from family_models import CL100K, QWEN, READ, UNREAD, FamilyModel, gemma, make, phi3
from llama_cpp import ask_llama_cpp
from transformers import AutoModelForCausalLM, AutoTokenizer

from torchtune.errors import CheckpointError
from torchtune.export._gguf_architectures import ARCHITECTURES
from torchtune.export._tokenizer import encoder
from torchtune.export._verify import DIALOGUES, TEXTS

ALL = READ | UNREAD
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Makes the folder of a model when it is asked for."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def of(name):
        if name not in made:
            made[name] = make(root / name.replace(" ", "_"), ALL[name])
        return made[name]

    return of


def contents(folder):
    reader = gguf.GGUFReader(next(folder.glob("*.gguf")))
    return {key: field.contents() for key, field in reader.fields.items()}, {t.name: t for t in reader.tensors}


def original(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", READ)
def test_transformers_reads_the_same_model(folders, export, name):
    report = json.loads((export(folders(name), "gguf", quantize="f32", verify=True) / "verify.json").read_text())
    assert report["weights"]["different"] == 0 < report["weights"]["tensors"]
    assert report["logits"]["max_abs_difference"] <= 0.1 * report["logits"]["tolerance"]
    if name == "smollm2":
        assert report["texts"] is None and "were not compared" in report["notes"][0]
    else:
        assert report["texts"]["different"] == report["dialogues"]["different"] == 0


@pytest.mark.parametrize("name", UNREAD)
def test_what_nobody_reads_is_written_but_not_said_to_be_verified(folders, export, tmp_path, name):
    with pytest.raises(CheckpointError, match="cannot be checked.*only gemma2, gemma3, llama, phi3, qwen2.*--to hf"):
        export(folders(name), "gguf", verify=True)
    assert not list(tmp_path.iterdir())
    assert next(export(folders(name), "gguf").glob("*.gguf")).is_file()


@pytest.mark.parametrize("name", ALL)
def test_names_and_shapes_are_those_of_the_package(folders, export, name):
    found, tensors = contents(export(folders(name), "gguf", quantize="f32"))
    model = original(folders(name))
    kind = next(arch for arch, text in gguf.MODEL_ARCH_NAMES.items() if text == found["general.architecture"])
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    tied = model.config.tie_word_embeddings
    theirs = {n: t for n, t in model.state_dict().items() if "mlp.experts." not in n and not (tied and "lm_head" in n)}
    expected = {names.get_name(n, try_suffixes=(".weight", ".bias")): list(t.shape)[::-1] for n, t in theirs.items()}
    # The package's map knows the names in files, where Mixtral's router is this.
    expected |= {n: t.shape.tolist() for n, t in tensors.items() if "ffn_gate_inp" in n}
    plain = {n: t.shape.tolist() for n, t in tensors.items() if not n.startswith("rope_") and "_exps" not in n}
    assert plain == {n: shape for n, shape in expected.items() if n}
    required = {gguf.TENSOR_NAMES[tensor].format(bid=0) for tensor in gguf.MODEL_TENSORS[kind]}
    assert {n.rpartition(".")[0] for n in tensors if n.startswith("blk.0.") or not n.startswith("blk.")} <= required


# The feed-forward's GELU comes from a table of 16-bit numbers there.
@pytest.mark.parametrize("name", ALL)
def test_llama_cpp_reads_the_same_model(folders, export, name):
    pytest.importorskip("xllamacpp")
    folder, model = folders(name), original(folders(name))
    file = next(export(folder, "gguf", quantize="f32").glob("*.gguf"))
    texts, dialogues = [*TEXTS, "  begins with spaces", "\n\n", "a     b"], [DIALOGUES[0], DIALOGUES[2]]
    prompts = torch.randint(10, 590, (6, 40), generator=torch.Generator().manual_seed(1)).tolist()
    rows = model.config.vocab_size
    asked = {"texts": texts, "dialogues": dialogues, "prompts": prompts, "new_tokens": 1, "rows": rows}
    answers = ask_llama_cpp(file, **asked)
    assert answers["texts"] == list(map(encoder(folder), texts))
    theirs = AutoTokenizer.from_pretrained(folder)
    rendered = [theirs.apply_chat_template(d, tokenize=False, add_generation_prompt=True) for d in dialogues]
    assert [t.removeprefix("<bos>") for t in answers["dialogues"]] == [t.removeprefix("<bos>") for t in rendered]
    compared = [(p, likely[0]) for p, (_, likely) in zip(prompts, answers["completions"], strict=True) if likely]
    assert len(compared) >= 2
    for prompt, likely in compared:
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        found = torch.tensor([likely[str(i)] for i in range(rows)])
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-2 if "gemma" in name else 2e-5)


@pytest.mark.parametrize(
    ("case", "tokenizer", "config", "named"),
    [
        ("qwen3/biases", QWEN, {}, "qwen3 lacks a tensor.*attn.[qk]_proj.bias"),
        ("qwen3_moe/mixed", QWEN, {"attention_bias": False}, "scores of experts that sum to 1"),
        ("qwen3_moe/mixed", QWEN, {"attention_bias": False, "norm_topk_prob": True}, "lacks a tensor.*mlp.w[123]"),
        ("gemma/untied", gemma, {}, "lacks a tensor.*output.weight"),
        ("gemma2/27b", gemma, {"attn_logit_softcapping": 0.0}, "soft caps of both"),
        ("gemma2/27b", gemma, {}, "divided by the root of 32"),
        ("gemma2/no_caps", gemma, {"tie_word_embeddings": True}, "one window in all layers but one of 2"),
        ("gemma3/27b", gemma, {}, "divided by the root of 32"),
        ("gemma3/cap", gemma, {"query_pre_attn_scalar": 32}, "without a soft cap"),
        ("gemma3/1b", gemma, {"query_pre_attn_scalar": 32, "layer_types": ["full_attention"] * 7}, "10,000"),
        ("phi3/mini", phi3, {"hidden_act": "gelu"}, "activation silu"),
        ("qwen2/7b", QWEN, {"rope_parameters": DYNAMIC}, "'dynamic' .* architecture qwen2 here"),
        ("olmo2/tied", CL100K, {}, "an output projection of its own"),
        ("olmo3/tied", CL100K, {"tie_word_embeddings": False}, "one RoPE base"),
        ("smollm3/window", CL100K, {"attention_bias": False, "mlp_bias": False}, "all layers but one of 4"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused_by_name(export, tmp_path, case, tokenizer, config, named):
    folder = make(tmp_path / "model", FamilyModel(case, tokenizer, config))
    with pytest.raises(CheckpointError, match=named):
        export(folder, "gguf")
    assert not (tmp_path / "gguf").exists()


def test_numbers_of_architectures(folders, export):
    found, _ = contents(export(folders("gemma2"), "gguf"))
    assert (found["gemma2.attn_logit_softcapping"], found["gemma2.final_logit_softcapping"]) == (3.0, 2.0)
    assert (found["gemma2.attention.sliding_window"], found["gemma2.context_length"]) == (11, 320)
    assert found["tokenizer.ggml.eot_token_id"] == 5 and found["tokenizer.ggml.add_space_prefix"] is False
    found, _ = contents(export(folders("granite"), "gguf", force=True))
    keys = ("attention.scale", "embedding_scale", "residual_scale", "logit_scale")
    assert [found[f"granite.{key}"] for key in keys] == pytest.approx([1 / 64, 12.0, 0.22, 8.0])
    found, _ = contents(export(folders("phi4 mini"), "gguf", force=True))
    assert found["phi3.rope.dimension_count"] == 12 and found["phi3.rope.scaling.original_context_length"] == 11
    found, _ = contents(export(folders("phi3"), "gguf", force=True))
    assert found["tokenizer.ggml.add_bos_token"] is False


def test_a_window_that_the_architecture_does_not_keep_ends_the_context(export, tmp_path):
    folder = make(tmp_path / "model", FamilyModel("phi3/window", phi3, {"sliding_window": 200}))
    assert contents(export(folder, "gguf", verify=True))[0]["phi3.context_length"] == 200


def test_experts_are_stacks(folders, export):
    found, tensors = contents(export(folders("qwen3_moe"), "gguf", quantize="q8_0", verify=True))
    assert tensors["blk.1.ffn_up_exps.weight"].shape.tolist() == [64, 48, 16]
    kinds = {name: tensors[f"blk.1.{name}.weight"].tensor_type.name for name in ("ffn_up_exps", "ffn_gate_inp")}
    assert kinds == {"ffn_up_exps": "Q8_0", "ffn_gate_inp": "F32"}
    assert found["qwen3moe.expert_feed_forward_length"] == 48


@pytest.mark.parametrize(("token", "is_left_out"), [("<image_soft_token>", True), ("<other>", False)])
def test_a_token_of_images_needs_no_row(folders, export, tmp_path, token, is_left_out):
    """Gemma 3 1B's tokenizer has one more than its embedding."""
    folder = shutil.copytree(folders("gemma3"), tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    spare = [f"<spare{number}>" for number in range(700, rows)]
    for number, text in enumerate([*spare, token], 700):
        content["added_tokens"].append({**content["added_tokens"][0], "id": number, "content": text})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    if is_left_out:
        tokens = contents(export(folder, "gguf"))[0]["tokenizer.ggml.tokens"]
        assert len(tokens) == rows and tokens[-1] == spare[-1]
    else:
        with pytest.raises(CheckpointError, match=f"{rows + 1} tokens"):
            export(folder, "gguf")


def test_words_that_only_tokenizer_json_names(folders, export, tmp_path):
    folder = shutil.copytree(folders("gemma"), tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer.json.*beside it"):
        export(folder, "gguf")


def test_each_architecture_has_a_model_here():
    of_models = {json.loads(json.dumps(model.case)).partition("/")[0] for model in ALL.values()}
    assert set(ARCHITECTURES) - {"llama", "mistral", "ministral"} <= of_models


def test_a_pattern_of_two_spellings(export, folders, tmp_path):
    """Phi 4's tokenizer.json keeps what its pattern matches by removing the rest, of which there is none."""
    folder = shutil.copytree(folders("phi4"), tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"]["pretokenizers"][0] |= {"behavior": "Removed", "invert": True}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    edit(folder / "tokenizer_config.json", eos_token=None)
    assert contents(export(folder, "gguf"))[0]["tokenizer.ggml.pre"] == "dbrx"
