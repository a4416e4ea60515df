"""Which file an adapter is read from, what it says of itself, and what is refused."""

import json
import logging
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from torchtune.errors import CheckpointError
from torchtune.models.convert_weights import tune_to_meta
from torchtune.modules.peft import adapter_spec
from torchtune.training.checkpointing import (
    FullModelHFCheckpointer,
    FullModelMetaCheckpointer,
    FullModelTorchTuneCheckpointer,
    check_adapter,
    checkpointer_for,
)
from torchtune.training.checkpointing._copy import copy_rest

EMBEDDING = {"trainable_modules": ["tok_embeddings"]}


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def drop(folder, *fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in fields}))


def shapes_of(adapted, model):
    return {name: tuple(tensor.shape) for name, tensor in adapted.tensors(model).items()}


# Files and folders.


def test_places_to_read_from(adapted, tmp_path, monkeypatch):
    adapted = adapted()
    ours = adapted.ours(["q_proj"])
    adapted.write(ours, adapted.folder, only=False)
    adapted.write(ours, tmp_path / "flat")
    monkeypatch.chdir(tmp_path)
    find = lambda source: adapted.checkpointer.adapter(source, head_dim=8).path  # noqa: E731
    peft, native = adapted.folder / "adapter/adapter_model.safetensors", adapted.folder / "adapter_model.pt"
    assert find(adapted.folder) == find(".") == find("adapter") == peft
    assert find("adapter_model.pt") == find(None) == native
    assert find("flat") == tmp_path / "flat/adapter_model.safetensors"
    for named, expected in ((None, peft), ("flat", tmp_path / "flat/adapter_model.safetensors")):
        assert FullModelHFCheckpointer(adapted.folder, adapter_checkpoint=named).adapter(head_dim=8).path == expected
    with pytest.raises(CheckpointError, match="no adapter at .*base/nowhere or .*nowhere: expected adapter_model.saf"):
        find("nowhere")


def test_a_file_without_config_gives_tensors_alone(adapted, tmp_path):
    adapted = adapted()
    ours = adapted.ours(["q_proj"], lora_alpha=99)
    adapted.write(ours, tmp_path / "flat")
    for name in ("adapter_model.pt", "adapter_model.safetensors"):
        (tmp_path / "alone").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "flat" / name, tmp_path / "alone" / name)
    loaded = adapted.checkpointer.adapter(tmp_path / "alone/adapter_model.pt", head_dim=8)
    assert loaded.spec is None and loaded.base is None
    other = adapted.ours(["q_proj"])  # nothing says alpha
    check_adapter(loaded, adapter_spec(other), shapes_of(adapted, other), "a base")
    with pytest.raises(CheckpointError, match="no adapter_config.json lies beside it"):
        adapted.checkpointer.adapter(tmp_path / "alone/adapter_model.safetensors", head_dim=8)


@pytest.mark.parametrize("name", ["", ".default", ".my-own"])
def test_other_spellings_of_names(adapted, tmp_path, name):
    """With the adapter's name, and DoRA's vector as PEFT spells it."""
    adapted = adapted()
    ours = adapted.ours(use_dora=True, trainable_modules=["norm"])
    adapted.write(ours, tmp_path / "flat")
    path = tmp_path / "flat/adapter_model.safetensors"
    spelt = {f".lora_{x}.weight": f".lora_{x}{name}.weight" for x in "AB"}
    spelt[".lora_magnitude_vector.weight"] = f".lora_magnitude_vector{name}"
    spelt["model.norm.weight"] = f"model.norm.modules_to_save{name or '.default'}.weight"
    tensors = {}
    for key, tensor in load_file(path).items():
        leaf = next(leaf for leaf in spelt if key.endswith(leaf))
        tensors[key.removesuffix(leaf) + spelt[leaf]] = tensor
    save_file(tensors, path)
    found = dict(adapted.checkpointer.adapter(tmp_path / "flat", head_dim=8).tensors)
    assert all(torch.equal(found[k], v) for k, v in adapted.tensors(ours).items())


def test_folders_of_torchtune(adapted, tmp_path):
    """Version 0.6.1 writes five facts, and DoRA's magnitudes in an order that PEFT takes for another."""
    adapted = adapted()
    ours = adapted.ours(["q_proj", "v_proj"])
    adapted.write(ours, tmp_path / "flat")
    facts = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "peft_type": "LORA"}
    (tmp_path / "flat/adapter_config.json").write_text(json.dumps(facts | {"base_model_name_or_path": "x/y"}))
    adapted.assert_same(adapted.fill(adapted.ours(["q_proj", "v_proj"]), tmp_path / "flat"), ours)
    dora = adapted.ours(["q_proj"], use_dora=True)
    adapted.write(dora, tmp_path / "dora")
    drop(tmp_path / "dora", "use_dora")
    with pytest.raises(CheckpointError, match="name the .pt file beside it"):
        adapted.checkpointer.adapter(tmp_path / "dora", head_dim=8)
    again = adapted.fill(adapted.ours(["q_proj"], use_dora=True), tmp_path / "dora/adapter_model.pt")
    adapted.assert_same(again, dora)


def test_what_the_base_is_called(adapted, tmp_path):
    adapted = adapted()
    ours = adapted.ours(["q_proj"])

    def name(checkpointer):
        form = checkpointer._peft_form(adapted.tensors(ours), adapter_spec(ours), 8)
        return form.config["base_model_name_or_path"]

    assert name(adapted.checkpointer) == str(adapted.folder)
    downloaded = adapted.folder / "original_repo_id.json"
    for repo_id, expected in (
        ("org/tiny", "org/tiny"),
        ("m/l/pytorch/1b", str(adapted.folder)),
        (3, str(adapted.folder)),
    ):
        downloaded.write_text(json.dumps({"repo_id": repo_id}))
        assert name(adapted.checkpointer) == expected
    downloaded.write_text("{")
    assert name(adapted.checkpointer) == str(adapted.folder)
    downloaded.write_text('{"repo_id": "org/tiny"}')
    (adapted.folder / "original").mkdir()
    torch.save({}, adapted.folder / "original/consolidated.00.pth")
    assert name(FullModelMetaCheckpointer(adapted.folder / "original")) == "org/tiny"
    for trained in ("epoch_3", "renamed"):  # a run's folder has the file too, but other weights than the Hub
        shutil.copytree(adapted.folder, tmp_path / trained)
        (tmp_path / trained / "MANIFEST.json").write_text("{}")
        assert name(FullModelHFCheckpointer(tmp_path / trained)) == str(tmp_path / trained)
    (tmp_path / "epoch_3/MANIFEST.json").unlink()  # torchtune's have none
    assert name(FullModelHFCheckpointer(tmp_path / "epoch_3")) == str(tmp_path / "epoch_3")


def test_another_name_of_the_base_is_told(adapted, tmp_path, caplog):
    adapted = adapted()
    model = get_peft_model(adapted.theirs(), LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "theirs")
    adapted.checkpointer.adapter(tmp_path / "theirs", head_dim=8)
    assert not caplog.records
    edit(tmp_path / "theirs", base_model_name_or_path="org/other")
    with caplog.at_level(logging.WARNING):
        adapted.checkpointer.adapter(tmp_path / "theirs", head_dim=8)
    assert "was trained on org/other; here it goes on" in caplog.text


# What cannot be read.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA'"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'.*save_pretrained"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"trainable_token_indices": [1, 2]}, r"trainable_token_indices is \[1, 2\]"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication is"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"target_parameters": ["experts.up"]}, "target_parameters is"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens is"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"a_field_of_tomorrow": {"x": 1}}, "a_field_of_tomorrow is"),
        ({"use_dora": True}, "says use_dora True, but the tensors say False"),
        ({"r": 4}, r"gives model.layers.0.self_attn.q_proj rank 4, but the tensors have rank 8"),
        ({"rank_pattern": {"layers.1.self_attn.q_proj": 2}}, "model.layers.1.self_attn.q_proj rank 2"),
        ({"alpha_pattern": {"(q_proj": 2}}, r"'\(q_proj', which is no regular expression"),
    ],
)
def test_other_methods_are_refused(adapted, tmp_path, fields, message):
    adapted = adapted()
    model = get_peft_model(adapted.theirs(), LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "theirs")
    adapted.checkpointer.adapter(tmp_path / "theirs", head_dim=8)
    edit(tmp_path / "theirs", **fields)
    with pytest.raises(CheckpointError, match=f"adapter_config.json: .*{message}"):
        adapted.checkpointer.adapter(tmp_path / "theirs", head_dim=8)


def test_damaged_configs_and_unknown_tensors(adapted, tmp_path):
    adapted = adapted()
    adapted.write(adapted.ours(["q_proj"]), tmp_path / "flat")
    drop(tmp_path / "flat", "lora_alpha")
    with pytest.raises(CheckpointError, match="has no lora_alpha"):
        adapted.checkpointer.adapter(tmp_path / "flat", head_dim=8)
    (tmp_path / "flat/adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a table of settings"):
        adapted.checkpointer.adapter(tmp_path / "flat", head_dim=8)
    adapted.write(adapted.ours(["q_proj"]), tmp_path / "flat")
    path = tmp_path / "flat/adapter_model.safetensors"
    save_file({k.replace("self_attn", "attention"): v for k, v in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match=r"4 tensor\(s\) belong to no layer.*layers.0.attention.q_proj.*nearest"):
        adapted.checkpointer.adapter(tmp_path / "flat", head_dim=8)


# What does not fit.


def misfit(adapted, model, source, base=None):
    with pytest.raises(CheckpointError) as raised:
        adapted.fill(model, source, base)
    return str(raised.value)


def test_every_difference_is_told(adapted, tmp_path):
    adapted = adapted(tie_word_embeddings=False)
    wrong = {"lora_rank": 4, "lora_alpha": 8, "use_rslora": True, "trainable_modules": ["norm"]}
    adapted.write(adapted.ours(["q_proj", "k_proj"], use_dora=True, **wrong), tmp_path / "flat")
    message = misfit(adapted, adapted.ours(["q_proj", "v_proj"]), tmp_path / "flat", "another base")
    for part in (
        "it was trained on other weights than those in checkpoint_dir",
        "use_rslora is False here, True in the file",
        "use_dora is False here, True in the file",
        "lora_rank is 8 here, 4 in the file\n",
        "lora_alpha is 16 here, 8 in the file\n",
        "trained here and not in the file: layers.0.attn.v_proj, layers.1.attn.v_proj\n",
        "trained in the file and not here: layers.0.attn.k_proj, layers.1.attn.k_proj, norm.scale, "
        "layers.0.attn.q_proj.magnitude, layers.1.attn.q_proj.magnitude; nearest to layers.0.attn.k_proj is layers",
    ):
        assert part in message


def test_differences_of_some_layers(adapted, tmp_path):
    adapted = adapted()
    adapted.write(adapted.ours(["q_proj"], rank_pattern={"layers.1.attn.q_proj": 2}), tmp_path / "flat")
    message = misfit(adapted, adapted.ours(["q_proj"]), tmp_path / "flat")
    assert "lora_rank is 8 here, 2 in the file for layers.1.attn.q_proj\n" in message
    adapted.fill(adapted.ours(["q_proj"], rank_pattern={"layers.1.attn.q_proj": 2}), tmp_path / "flat", "a base")


def test_shapes_of_another_model(adapted, tmp_path):
    adapted = adapted()
    adapted.write(adapted.ours(["q_proj", "v_proj"]), tmp_path / "flat")
    ours = adapted.ours(["q_proj", "v_proj"])
    shapes = shapes_of(adapted, ours) | {"layers.0.attn.v_proj.lora_a.weight": (8, 64)}
    loaded = adapted.checkpointer.adapter(tmp_path / "flat", head_dim=8)
    with pytest.raises(CheckpointError, match=r"lora_a.weight is \[8, 64\] here and \[8, 32\] in the file"):
        check_adapter(loaded, adapter_spec(ours), shapes, None)


def test_a_tied_embedding_is_one_weight_or_two(adapted, tmp_path):
    adapted = adapted(tie_word_embeddings=True)
    theirs = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
    model = get_peft_model(adapted.theirs(), LoraConfig(r=8, lora_alpha=16, **theirs)).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()
    model.save_pretrained(tmp_path / "theirs")
    tied = adapted.ours(["q_proj"], **EMBEDDING)
    assert "one trained weight here, and two in the file" in misfit(adapted, tied, tmp_path / "theirs")
    adapted.write(tied, tmp_path / "ours")
    adapted.checkpointer.config["tie_word_embeddings"] = False
    untied = adapted.ours(["q_proj"], **EMBEDDING)
    assert "one trained weight in the file, and two here" in misfit(adapted, untied, tmp_path / "ours")
    adapted.assert_same(adapted.fill(untied, tmp_path / "theirs"), model)


@pytest.mark.parametrize("settings", [{"apply_lora_to_output": True}, {"trainable_modules": ["output"]}])
def test_an_output_projection_that_only_the_model_unties(adapted, tmp_path, settings):
    adapted = adapted(tie_word_embeddings=True)
    adapted.checkpointer.config["tie_word_embeddings"] = False
    ours = adapted.ours(["q_proj"], **settings)
    adapted.write(ours, tmp_path / "flat")
    adapted.assert_same(ours, PeftModel.from_pretrained(adapted.theirs(), tmp_path / "flat").eval())
    adapted.assert_same(adapted.fill(adapted.ours(["q_proj"], **settings), tmp_path / "flat"), ours)


# What PEFT cannot express, and formats.


def test_what_peft_cannot_express_is_written_for_us_alone(adapted, tmp_path, caplog):
    adapted = adapted()
    ours = adapted.ours(["q_proj"])
    ours.layers[0].attn.q_proj.weight.requires_grad_(True)
    with caplog.at_level(logging.WARNING):
        records = adapted.write(ours, tmp_path / "merged", only=False)
    assert "layers.0.attn.q_proj.weight is trained in full below an adapter" in caplog.text
    assert list(records) == ["adapter_model.pt"] == [p.name for p in (tmp_path / "merged").iterdir()]
    adapted.fill(ours, tmp_path / "merged")


def test_every_format_writes_the_same_adapter(adapted, tmp_path, caplog):
    adapted = adapted(tie_word_embeddings=False)
    ours = adapted.ours(use_dora=True)
    adapted.write(ours, tmp_path / "hf")
    state = {
        k: v for k, v in ours.state_dict().items() if not k.endswith(("lora_a.weight", "lora_b.weight", "magnitude"))
    }
    torch.save(tune_to_meta(state), tmp_path / "consolidated.00.pth")
    torch.save(state, tmp_path / "model.pt")
    expected = load_file(tmp_path / "hf/adapter_model.safetensors")
    formats = {
        "meta": FullModelMetaCheckpointer(tmp_path, "consolidated.00.pth", "LLAMA3"),
        "native": FullModelTorchTuneCheckpointer(tmp_path, "model.pt", "LLAMA3"),
    }
    for name, adapted.checkpointer in formats.items():
        adapted.write(ours, tmp_path / name)
        found = load_file(tmp_path / name / "adapter_model.safetensors")
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)
        loaded = adapted.checkpointer.adapter(tmp_path / "hf", head_dim=8)
        assert all(torch.equal(loaded.tensors[k], v) for k, v in adapted.tensors(ours).items())
    adapted.checkpointer = FullModelTorchTuneCheckpointer(tmp_path, "model.pt")
    with caplog.at_level(logging.WARNING):
        records = adapted.write(ours, tmp_path / "unnamed")
    assert list(records)[0] == "adapter_model.pt" and "adapter_config.json" not in records
    assert "set model_type in the checkpointer" in caplog.text
    with pytest.raises(CheckpointError, match="set model_type in the checkpointer"):
        adapted.checkpointer.adapter(tmp_path / "hf", head_dim=8)
    found = adapted.checkpointer.adapter(tmp_path / "hf/adapter_model.pt", head_dim=8)
    assert found.spec is None and found.base == "a base"


def test_an_adapters_folder_is_no_model(adapted, tmp_path):
    adapted = adapted()
    adapted.write(adapted.ours(["q_proj"]), tmp_path / "flat")
    for make in (FullModelHFCheckpointer, FullModelTorchTuneCheckpointer, checkpointer_for):
        with pytest.raises(CheckpointError, match="holds an adapter and no model.*adapter_checkpoint"):
            make(tmp_path / "flat")


def test_a_bases_own_adapter_does_not_go_along(tmp_path):
    base, target = tmp_path / "base", tmp_path / "target"
    for name in ("adapter/README.md", "adapter_config.json", "tokenizer.json", "config.json"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("{}")
    target.mkdir()
    assert list(copy_rest(base, target, without=("config.json",))) == ["tokenizer.json"]


# torchtune's methods.


@pytest.mark.parametrize("adapter_only", [False, True])
def test_save_checkpoint_writes_the_same_files(adapted, tmp_path, adapter_only):
    adapted = adapted(tie_word_embeddings=False)
    ours = adapted.ours(["q_proj", "v_proj"], apply_lora_to_output=True)
    adapted.write(ours, tmp_path / "flat", base=None)
    facts = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "output"], "peft_type": "LORA"}
    model = dict(adapted.checkpointer.load_checkpoint()["model"])
    state = {"model": model, "adapter": adapted.tensors(ours), "adapter_config": facts, "epochs_run": 1}
    adapted.checkpointer.save_checkpoint(state, 0, True, adapter_only)
    written = tmp_path / "out/epoch_0"
    inner = written if adapter_only else written / "adapter"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (inner / name).read_bytes() == (tmp_path / "flat" / name).read_bytes()
    assert (written / "config.json").exists() is not adapter_only
    assert bool(list(written.glob("model*.safetensors"))) is not adapter_only
    resuming = FullModelHFCheckpointer(adapted.folder, output_dir=tmp_path / "out", resume_from_checkpoint=True)
    loaded = resuming.load_checkpoint()
    assert loaded.keys() == {"model", "adapter", "epochs_run"}
    assert all(torch.equal(loaded["adapter"][k], v) for k, v in adapted.tensors(ours).items())
    assert all(torch.equal(loaded["model"][k], v) for k, v in model.items())


def test_a_state_without_adapters_is_saved(adapted, tmp_path, caplog):
    adapted = adapted()
    facts = {"r": 8, "lora_alpha": 16, "target_modules": [], "peft_type": "LORA"}
    state = {"model": adapted.checkpointer.load_checkpoint()["model"], "adapter": {}, "adapter_config": facts}
    with caplog.at_level(logging.WARNING):
        adapted.checkpointer.save_checkpoint(state, 0)
    assert "no layer has an adapter" in caplog.text and (tmp_path / "out/epoch_0/config.json").exists()


def test_an_adapter_without_facts_is_written_for_us_alone(adapted, tmp_path, caplog):
    adapted = adapted()
    state = {
        "model": adapted.checkpointer.load_checkpoint()["model"],
        "adapter": adapted.tensors(adapted.ours(["q_proj"])),
    }
    with caplog.at_level(logging.WARNING):
        adapted.checkpointer.save_checkpoint(state, 0)
    assert "adapter_config is not known" in caplog.text
    assert (tmp_path / "out/epoch_0/adapter_model.pt").exists() and not (tmp_path / "out/epoch_0/adapter").exists()
