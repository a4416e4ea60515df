"""Where an export begins and ends: checkpoints of all kinds, folders that are in use, what cannot be done."""

import json
import shutil

import pytest
import torch
from export_models import edit
from safetensors.torch import load_file

from torchtune.errors import CheckpointError, ConfigError
from torchtune.export import Options, export_to
from torchtune.training import FullModelHFCheckpointer


def weights_of(folder):
    return load_file(next(folder.glob("*.safetensors")))


def native(models, tmp_path, name="llama3", **change):
    """A bare file as torchtune wrote it."""
    state = FullModelHFCheckpointer(models[name]).load_checkpoint()["model"]
    (tmp_path / "native").mkdir()
    torch.save(state | change, tmp_path / "native" / "torchtune_model_0.pt")
    return tmp_path / "native"


def test_bare_torchtune_file_takes_its_config_from_the_base(models, export, tmp_path):
    folder = native(models, tmp_path)
    with pytest.raises(CheckpointError, match="no config.json.*--base"):
        export(folder, "hf")
    with pytest.raises(CheckpointError, match="has no config.json; a Hugging Face folder"):
        export(folder, "hf", base=tmp_path)
    with pytest.raises(ConfigError, match="nothing to take from --base"):
        export(models["llama2"], "hf", base=models["llama3"])
    before, after = weights_of(models["llama3"]), weights_of(export(folder, "hf", base=models["llama3"]))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_output_projection_that_training_untied(models, export, tmp_path):
    """The config of the base still ties it; both are kept, and said."""
    output = torch.randn_like(weights_of(models["llama3"])["model.embed_tokens.weight"])
    folder = export(native(models, tmp_path, **{"output.weight": output}), "hf", base=models["llama3"], verify=True)
    assert torch.equal(weights_of(folder)["lm_head.weight"], output)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_classifier_is_refused(models, export, tmp_path):
    folder = shutil.copytree(models["llama2"], tmp_path / "model")
    edit(folder / "config.json", architectures=["LlamaForSequenceClassification"], id2label={"0": "LABEL_0"})
    with pytest.raises(CheckpointError, match="a classifier of 1 classes"):
        export(folder, "hf")


def test_meta_files_of_a_download(models, export, tmp_path):
    """They lie in ``original``, the config one folder above."""
    download = shutil.copytree(models["llama3"], tmp_path / "download")
    shutil.copytree(export(models["llama3"], "meta"), download / "original")
    for name in ("config.json", "tokenizer.json"):
        (download / "original" / name).unlink()
    before, after = weights_of(download), weights_of(export(download / "original", "hf"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_keeps_what_belongs_to_it(models, export, tmp_path):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    for name in ("logs/x.txt", "adapter_config.json", "optimizer.pt", "run_state.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    names = {path.name for path in export(folder, "hf").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE.txt"} <= names
    assert names.isdisjoint({"logs", "adapter_config.json", "optimizer.pt", "run_state.json"})


@pytest.mark.parametrize("to", ["hf", "gguf", "peft"])
def test_not_a_checkpoint(export, tmp_path, to):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is no checkpoint|there is no adapter"):
        export(tmp_path / "empty", to)
    with pytest.raises(CheckpointError, match="does not exist|there is no adapter"):
        export(tmp_path / "nothing", to)
    assert not (tmp_path / to).exists()


def test_output_of_a_run(models, export, tmp_path):
    shutil.copytree(models["llama3"], tmp_path / "run" / "epoch_1")
    with pytest.raises(CheckpointError, match=r"name one of its checkpoints, the newest is .*epoch_1"):
        export(tmp_path / "run", "hf")


def test_checkpoint_without_an_adapter(models, export):
    with pytest.raises(CheckpointError, match="there is no adapter"):
        export(models["llama3"], "peft")


def test_unknown_family(models, export, tmp_path):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    edit(folder / "config.json", model_type="parrot")
    with pytest.raises(CheckpointError, match="'parrot'"):
        export(folder, "gguf")


def test_quantised_weights(models, export, tmp_path):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    edit(folder / "config.json", quantization_config={"quant_method": "torchao"})
    with pytest.raises(CheckpointError, match="are quantised"):
        export(folder, "gguf")


def test_heads_that_metas_format_does_not_know(models, export, tmp_path):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    edit(folder / "config.json", num_attention_heads=2, num_key_value_heads=1)  # of 16 channels, not 32
    with pytest.raises(CheckpointError, match="heads have 16 channels"):
        export(folder, "meta")


def test_only_an_earlier_export_is_replaced(models, export, tmp_path):
    folder = export(models["llama3"], "hf")
    before = (folder / "MANIFEST.json").read_bytes()
    with pytest.raises(ConfigError, match="--force"):
        export(models["llama3"], "hf")
    assert (folder / "MANIFEST.json").read_bytes() == before
    export(models["llama3"], "hf", dtype="bf16", force=True)
    assert weights_of(folder)["model.norm.weight"].dtype == torch.bfloat16
    mine = tmp_path / "gguf"
    mine.mkdir()
    for name in ("thesis.txt", "MANIFEST.json"):
        (mine / name).write_text("[]")
        for force in (False, True):
            with pytest.raises(ConfigError, match="did not make it"):
                export(models["llama3"], "gguf", force=force)
    assert len(list(mine.iterdir())) == 2


def test_output_inside_the_checkpoint_or_around_it(models, tmp_path):
    for output in (models["llama3"], models["llama3"] / "gguf", models["llama3"].parent):
        with pytest.raises(ConfigError, match="choose another"):
            export_to(models["llama3"], "hf", output, Options(force=True))


def test_a_failed_export_leaves_nothing_and_the_earlier_one(models, export, tmp_path, monkeypatch):
    folder = export(models["llama3"], "hf")
    (tmp_path / ".tmp-epoch_1").mkdir()  # of a run that saves in the same place just now
    before = sorted(path.name for path in tmp_path.iterdir())

    def full_disk(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchtune.training.checkpointing.hf.write_safetensors", full_disk)
    with pytest.raises(CheckpointError, match="no space left"):
        export(models["llama3"], "hf", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert weights_of(folder).keys() == weights_of(models["llama3"]).keys()


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("gguff", {}, r"no format 'gguff'. Did you mean 'gguf'\? The formats are: hf, peft"),
        ("hf", {"quantize": "q8_0"}, "--quantize has no meaning with --to hf; it goes with gguf and ollama"),
        ("gguf", {"dtype": "bf16"}, "--dtype has no meaning with --to gguf"),
        ("peft", {"max_shard_size": "1GB"}, "--max-shard-size has no meaning with --to peft"),
        ("gguf", {"quantize": "q4_k_m"}, "--quantize is 'q4_k_m'; known are f32, f16"),
        ("hf", {"dtype": "int8"}, "--dtype is 'int8'; known are fp32"),
        ("hf", {"max_shard_size": "large"}, "'large' is not a size"),
    ],
)
def test_options_that_cannot_be(models, export, tmp_path, to, options, message):
    with pytest.raises(ConfigError, match=message):
        export(models["llama3"], to, **options)
    assert not (tmp_path / to).exists()
