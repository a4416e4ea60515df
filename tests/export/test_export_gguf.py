"""GGUF files, read by the package gguf, by transformers and, where it is installed, by llama.cpp."""

import json
import shutil
import sys

import gguf
import pytest
import torch
from export_models import WORDS, edit
from gguf import GGMLQuantizationType as Kind
from llama_cpp import ask_llama_cpp
from transformers import AutoModelForCausalLM, AutoTokenizer

from torchtune.errors import CheckpointError, MissingDependency
from torchtune.export._gguf_architectures import ARCHITECTURES
from torchtune.export._tokenizer import encoder
from torchtune.export._verify import DIALOGUES, TEXTS


def loaded(folder):
    """Transformers' reading of the one GGUF file in a folder."""
    file = next(folder.glob("*.gguf")).name
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    return theirs, AutoTokenizer.from_pretrained(folder, gguf_file=file)


def original(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def without_rope_scaling(models, tmp_path, name):
    """Transformers does not read the factors of RoPE in a GGUF file, so a model without them tells all else."""
    folder = shutil.copytree(models[name], tmp_path / name)
    edit(folder / "config.json", rope_scaling=None)
    return folder


def values(folder):
    reader = gguf.GGUFReader(next(folder.glob("*.gguf")))
    return {key: field.contents() for key, field in reader.fields.items()}, {t.name: t for t in reader.tensors}


@pytest.mark.parametrize("name", ["llama3", "llama2", "mistral_7b", "nemo"])
def test_f32_gives_the_same_logits_to_the_bit(models, export, tmp_path, ids, name):
    folder = without_rope_scaling(models, tmp_path, name)
    theirs, _ = loaded(export(folder, "gguf", quantize="f32"))
    assert torch.equal(theirs(ids).logits, original(folder)(ids).logits)


def test_bf16_is_kept_as_it_is(models, export, tmp_path, ids):
    folder = without_rope_scaling(models, tmp_path, "bf16")
    target = export(folder, "gguf")
    assert (target / "model-BF16.gguf").is_file()
    assert torch.equal(loaded(target)[0](ids).logits, original(folder)(ids).logits)


# How far logits between -4 and 4 move in these models, whose weights are drawn at random.
@pytest.mark.parametrize(("quantize", "most"), [("f16", 0.01), ("bf16", 0.1), ("q8_0", 0.3), ("q4_0", 4)])
def test_rounding_is_small(models, export, tmp_path, ids, quantize, most):
    folder = without_rope_scaling(models, tmp_path, "llama3")
    theirs, _ = loaded(export(folder, "gguf", quantize=quantize))
    assert 0 < (theirs(ids).logits - original(folder)(ids).logits).abs().max() < most


def test_types_of_tensors(models, export):
    _, tensors = values(export(models["bf16"], "gguf", quantize="q4_0"))
    kinds = {name: tensor.tensor_type for name, tensor in tensors.items()}
    assert {kinds["token_embd.weight"], kinds["output.weight"]} == {Kind.Q8_0}
    assert {kinds["output_norm.weight"], kinds["blk.1.ffn_norm.weight"], kinds["rope_freqs.weight"]} == {Kind.F32}
    assert {kinds["blk.0.attn_q.weight"], kinds["blk.1.ffn_down.weight"]} == {Kind.Q4_0}


def test_names_and_shapes_are_those_of_the_package(models, export):
    _, tensors = values(export(models["bf16"], "gguf"))
    theirs = original(models["bf16"]).state_dict()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    expected = {names.get_name(name, try_suffixes=(".weight",)): list(t.shape)[::-1] for name, t in theirs.items()}
    assert {n: t.shape.tolist() for n, t in tensors.items() if n != "rope_freqs.weight"} == expected


def test_rope_factors_give_transformers_frequencies(models, export):
    _, tensors = values(export(models["llama3"], "gguf"))
    scaled = original(models["llama3"]).model.rotary_emb.inv_freq
    plain = 500_000.0 ** -(torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(plain / torch.from_numpy(tensors["rope_freqs.weight"].data.copy()), scaled)


def test_metadata(models, export):
    found, _ = values(export(models["llama3"], "gguf", quantize="q8_0"))
    expected = {
        "general.architecture": "llama",
        "general.name": "llama3",
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q8_0,
        "general.quantization_version": 2,
        "llama.context_length": 320,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 500_000.0,
        "llama.vocab_size": WORDS + 11,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.bos_token_id": WORDS,
        "tokenizer.ggml.eos_token_id": WORDS + 6,
        "tokenizer.ggml.eot_token_id": WORDS + 6,
        "tokenizer.ggml.eom_token_id": WORDS + 5,
    }
    assert {key: found[key] for key in expected} == expected
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert len(found["tokenizer.ggml.tokens"]) == WORDS + 11
    kinds = found["tokenizer.ggml.token_type"]
    assert kinds[:WORDS] == [gguf.TokenType.NORMAL] * WORDS
    assert kinds[WORDS : WORDS + 8] == [gguf.TokenType.CONTROL] * 8
    assert kinds[WORDS + 8 :] == [gguf.TokenType.UNUSED] * 3


def test_metadata_of_sentencepiece(models, export):
    found, tensors = values(export(models["llama2"], "gguf"))
    assert found["tokenizer.ggml.model"] == "llama" and "rope_freqs.weight" not in tensors
    assert found["tokenizer.ggml.add_bos_token"] and found["tokenizer.ggml.add_space_prefix"]
    kinds = found["tokenizer.ggml.token_type"]
    assert kinds[:3] == [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    assert kinds[3 : 3 + 256] == [gguf.TokenType.BYTE] * 256
    assert len(found["tokenizer.ggml.scores"]) == len(found["tokenizer.ggml.tokens"]) == 600


@pytest.mark.parametrize("name", ["llama3", "llama2", "mistral_7b", "nemo"])
def test_tokenizer_and_chat_template(models, export, name):
    _, theirs = loaded(export(models[name], "gguf"))
    ours = encoder(models[name])
    assert [theirs(text, add_special_tokens=False).input_ids for text in TEXTS] == [ours(text) for text in TEXTS]
    source = AutoTokenizer.from_pretrained(models[name])
    assert theirs.chat_template == source.chat_template


def test_mistral_is_a_llama_there_and_ends_where_its_window_does(models, export):
    found, _ = values(export(models["mistral_7b"], "gguf"))
    assert (found["general.architecture"], found["llama.context_length"]) == ("llama", 96)


def test_a_family_that_is_not_known_is_refused_by_name(models, export, monkeypatch):
    monkeypatch.delitem(ARCHITECTURES, "mistral")
    with pytest.raises(CheckpointError, match="mistral cannot .* known families are llama, ministral"):
        export(models["mistral_7b"], "gguf")


def test_rope_that_factors_do_not_tell_is_refused_by_name(models, export, tmp_path):
    folder = shutil.copytree(models["llama2"], tmp_path / "llama2")
    edit(folder / "config.json", rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    with pytest.raises(CheckpointError, match="'dynamic' .* default, linear, yarn, llama3"):
        export(folder, "gguf")


@pytest.mark.parametrize("change", [{"beta_fast": 16}, {"truncate": False}, {"attention_factor": 1.0}])
def test_yarn_with_numbers_of_its_own_is_refused(models, export, tmp_path, change):
    folder = shutil.copytree(models["llama2"], tmp_path / "llama2")
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 80}
    edit(folder / "config.json", rope_scaling=scaling | change)
    with pytest.raises(CheckpointError, match="usual beta_fast"):
        export(folder, "gguf")


SPLIT = {"type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t["pre_tokenizer"]["pretokenizers"].insert(0, SPLIT), r"\\p{N}"),
        (lambda t: t.update(normalizer={"type": "NFC"}), "normalizer NFC"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"].pop(0), "ignore_merges True"),
        (lambda t: t.update(pre_tokenizer={"type": "Metaspace", "replacement": "_"}), "Metaspace"),
        (lambda t: t.update(pre_tokenizer=None), "pre-tokenizer None"),
        (lambda t: t["model"].update(type="Unigram"), "Unigram"),
        (lambda t: t["model"].update(merges=[]), "merges no bytes"),
    ],
    ids=["split", "normalizer", "merges", "metaspace", "none", "unigram", "no merges"],
)
def test_an_unknown_kind_of_tokenizer_is_refused_by_name(models, export, tmp_path, change, named):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=named):
        export(folder, "gguf")
    assert not (tmp_path / "gguf").exists()


def test_gpt_2s_kind(models, export, tmp_path):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content["model"]["ignore_merges"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content))
    _, theirs = loaded(export(folder, "gguf"))
    ours = AutoTokenizer.from_pretrained(folder)
    assert [theirs(t, add_special_tokens=False).input_ids for t in TEXTS] == [
        ours(t, add_special_tokens=False).input_ids for t in TEXTS
    ]


def test_more_tokens_than_the_model_has(models, export, tmp_path):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][-1], "id": WORDS + 20, "content": "<extra>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="1,021 tokens"):
        export(folder, "gguf")


def test_no_tokenizer(models, export, tmp_path):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="neither tokenizer.json nor"):
        export(folder, "gguf")


def test_values_that_16_bits_do_not_hold(models, export, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = 1e5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for to, options in (("gguf", {"quantize": "f16"}), ("hf", {"dtype": "fp16"})):
        with pytest.raises(CheckpointError, match=r"layers.0.mlp.w3.weight has values up to 1e\+05"):
            export(folder, to, **options)
        assert not (tmp_path / to).exists()


def test_without_the_package(models, export, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependency, match="pip install gguf"):
        export(models["llama3"], "gguf")


@pytest.mark.parametrize("name", ["llama3", "llama2", "mistral_7b", "nemo"])
def test_llama_cpp_reads_the_same_model(models, export, ids, name):
    pytest.importorskip("xllamacpp")
    file = next(export(models[name], "gguf", quantize="f32").glob("*.gguf"))
    texts, prompts = [*TEXTS, "  begins with spaces", "\n\n"], ids[:, :24].tolist()
    dialogues = [DIALOGUES[0], DIALOGUES[2]]
    answers = ask_llama_cpp(file, texts=texts, dialogues=dialogues, prompts=prompts, new_tokens=8)
    assert answers["texts"] == list(map(encoder(models[name]), texts))
    theirs = AutoTokenizer.from_pretrained(models[name])
    rendered = [theirs.apply_chat_template(d, tokenize=False, add_generation_prompt=True) for d in dialogues]
    # Where the file says so, it adds <s> as a token.
    assert [t.removeprefix("<s>") for t in answers["dialogues"]] == [t.removeprefix("<s>") for t in rendered]
    model = original(models[name])
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for prompt, (found, _) in zip(prompts, answers["completions"], strict=True):
        assert found == model.generate(torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist()
