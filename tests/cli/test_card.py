"""What the model card says, and where it has that from."""

import json
import re
import shutil

import pytest
import yaml
from published import BASE, CONFIG, SCORES, make_run, write_adapter, write_metrics

from torchtune import __version__
from torchtune.cli._card import card
from torchtune.cli._card_facts import Data, Losses, gather
from torchtune.training.checkpointing import commit_folder


@pytest.fixture
def epoch(tmp_path):
    return make_run(tmp_path / "run")


def text_of(folder, kind="model", revision=None, has_adapter=True):
    return card("me/mine", revision, kind, gather(folder), has_adapter)


def head_of(text):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])


def rows_of(text):
    return dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", text, re.MULTILINE))


def test_the_head_is_what_the_hub_reads(epoch):
    assert head_of(text_of(epoch)) == {
        "base_model": BASE,
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "llama3.2",
        "tags": ["torchtune", "lora"],
    }


def test_the_run_is_told(epoch):
    text = text_of(epoch)
    rows = rows_of(text)
    assert rows["Method"] == "LoRA, rank 4, alpha 8, on q_proj, v_proj"  # the files', and not the config's rank of 64
    assert rows["Loss"] == "5 at step 1 to 3.25 at step 4"  # step 5 came after the checkpoint
    assert rows["Validation loss"] == "3.3 at step 4"
    assert (rows["Epochs"], rows["Steps"], rows["Sequences per step"]) == ("1 of 3", "4", "16")
    assert (rows["Learning rate"], rows["Optimizer"], rows["Precision"]) == ("0.0003", "AdamW", "bf16")
    assert rows["Data"] == "mine.jsonl" and "/private/" not in text.partition("## Config")[0]
    assert f"[{BASE}](https://huggingface.co/{BASE}), fine-tuned with LoRA on mine.jsonl." in text
    config = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]
    assert yaml.safe_load(config) == CONFIG
    assert text.endswith(f"This card was made by torchtune {__version__}.\n")


def test_the_config_has_no_secret_and_no_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    logger = {"_component_": "x", "api_key": "very-secret"}
    config = {**CONFIG, "metric_logger": logger, "output_dir": f"{tmp_path}/home/out"}
    text = text_of(make_run(tmp_path / "run", config=config))
    assert "very-secret" not in text and "<redacted>" in text
    assert "output_dir: ~/out" in text and "/home/" not in text


@pytest.mark.parametrize(
    ("settings", "model", "method", "tag"),
    [
        ({}, {"_component_": "torchtune.models.llama3.qlora_llama3_8b"}, "QLoRA, rank 4, alpha 8", "qlora"),
        ({"use_dora": True}, "torchtune.models.llama3.lora_llama3_8b", "DoRA, rank 4, alpha 8", "dora"),
        ({"use_dora": True}, {"_component_": "a.lora_b", "quantize_base": True}, "QDoRA, rank 4, alpha 8", "qdora"),
        ({"rank_pattern": {"v_proj": 2}}, {}, "LoRA, rank 4 and others, alpha 8", "lora"),
        ({"use_rslora": True}, {}, "LoRA, rank 4, alpha 8, scaled by the root of the rank", "lora"),
        (
            {"modules_to_save": ["model.norm"]},
            {},
            "LoRA, rank 4, alpha 8, on q_proj, v_proj; in full: model.norm",
            "lora",
        ),
    ],
)
def test_methods(tmp_path, settings, model, method, tag):
    epoch = make_run(tmp_path / "run", config={**CONFIG, "model": model})
    write_adapter(epoch / "adapter", **settings)
    text = text_of(epoch)
    assert rows_of(text)["Method"].startswith(method) and head_of(text)["tags"] == ["torchtune", tag]


def test_full_fine_tuning(tmp_path):
    text = text_of(make_run(tmp_path / "run", adapter=False), has_adapter=False)
    assert "fine-tuned in full on" in text and rows_of(text)["Method"] == "full fine-tuning"
    assert head_of(text)["tags"] == ["torchtune"] and "peft" not in text


def test_an_adapter_alone(tmp_path):
    write_adapter(tmp_path / "adapter")
    text = text_of(tmp_path / "adapter", "adapter", has_adapter=False)
    assert head_of(text) == {
        "base_model": BASE,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["torchtune", "lora"],
    }
    assert f"A LoRA adapter for [{BASE}]" in text and 'PeftModel.from_pretrained(base, "me/mine")' in text
    assert "## Training" in text and "AutoTokenizer" not in text


def test_a_folder_about_which_nothing_is_known(tmp_path):
    text = text_of(tmp_path, has_adapter=False)
    assert head_of(text) == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["torchtune"]}
    assert not {"## Training", "## Evaluation", "## Config"} & set(text.splitlines())


def test_a_base_that_is_a_folder_is_no_base(tmp_path, monkeypatch):
    """The Hub would refuse the card, or link to somebody else's model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    for name in (str(tmp_path), "models/base", "../up/base", 7):
        write_adapter(tmp_path / "adapter", base_model_name_or_path=name)
        facts = gather(tmp_path / "adapter")
        assert facts.base is None
        assert "path/to/its/base" in card("me/mine", None, "adapter", facts)


def test_an_adapter_on_merged_weights_does_not_name_the_first_base(epoch):
    """It fits other weights; only the merged model comes from there."""
    write_adapter(epoch / "adapter", base_model_name_or_path="/runs/first/epoch_0")
    assert gather(epoch).base == BASE
    shutil.copy(epoch / "original_repo_id.json", epoch / "adapter")
    assert gather(epoch / "adapter").base is None


def test_the_base_and_its_licence_are_looked_for_where_it_was_read(tmp_path):
    original = tmp_path / "download" / "original"
    original.mkdir(parents=True)
    (tmp_path / "download" / "original_repo_id.json").write_text('{"repo_id": "org/meta"}')
    licence = "license: other\nlicense_name: terms\nlicense_link: https://example.com/terms\n"
    (tmp_path / "download" / "README.md").write_text(f"---\n{licence}---\ntext")
    epoch = make_run(
        tmp_path / "run", config={**CONFIG, "checkpointer": {"checkpoint_dir": str(original)}}, adapter=False
    )
    (epoch / "README.md").unlink()
    (epoch / "original_repo_id.json").unlink()
    facts = gather(epoch)
    assert facts.base == "org/meta"
    assert facts.license == yaml.safe_load(licence)


@pytest.mark.parametrize(
    "readme", ["", "# no head", "---\n- a list\n---\n", "---\nlicense: [\n---\n", "---\nlicense: mit"]
)
def test_a_card_that_states_no_licence(epoch, readme):
    (epoch / "README.md").write_text(readme)
    assert gather(epoch).license == {}


ALPACA = {"_component_": "torchtune.datasets.alpaca_cleaned_dataset"}


@pytest.mark.parametrize(
    ("node", "data"),
    [
        (ALPACA, [Data("yahma/alpaca-cleaned", True)]),
        ({"_component_": "torchtune.datasets.alpaca_dataset"}, [Data("tatsu-lab/alpaca", True)]),
        ({**ALPACA, "source": "org/rows"}, [Data("org/rows", True)]),
        (
            {**ALPACA, "source": "csv", "data_files": ["/a/b.csv", "/a/c.csv"]},
            [Data("b.csv", False), Data("c.csv", False)],
        ),
        ({**ALPACA, "source": "/a/rows.jsonl"}, [Data("rows.jsonl", False)]),
        ([{"source": "org/a"}, {"source": "org/b"}], [Data("org/a", True), Data("org/b", True)]),
        ({"_component_": "torchtune.datasets.ConcatDataset", "datasets": [{"source": "org/a"}]}, [Data("org/a", True)]),
        ({"_component_": "mine.dataset"}, []),  # nobody else's code is imported for a card
        ({"_component_": "torchtune.datasets.no_such_dataset"}, []),
        (None, []),
    ],
)
def test_data(tmp_path, node, data):
    (tmp_path / "epoch_0").mkdir()
    (tmp_path / "torchtune_config.yaml").write_text(yaml.safe_dump({"dataset": node}))
    assert list(gather(tmp_path / "epoch_0").data) == data


def test_data_on_the_hub_is_in_the_head(tmp_path):
    text = text_of(make_run(tmp_path / "run", config={**CONFIG, "dataset": ALPACA}))
    assert head_of(text)["datasets"] == ["yahma/alpaca-cleaned"]
    assert "[yahma/alpaca-cleaned](https://huggingface.co/datasets/yahma/alpaca-cleaned)" in text


def test_losses_are_those_of_the_last_run_up_to_the_checkpoint(epoch):
    write_metrics(epoch.parent, [9.0, 8.0], {})  # begun anew, and stopped before the checkpoint's step
    assert gather(epoch).losses == Losses((1, 9.0), (2, 8.0), None)
    with (epoch.parent / "metrics.jsonl").open("a") as file:  # resumed from step 1
        file.write('{"step": 2, "loss": 7.0}\n{"step": 3, "loss": null}\n{"step": 4, "lo')
    assert gather(epoch).losses == Losses((1, 9.0), (2, 7.0), None)


def test_evaluations_become_a_table(epoch):
    (epoch / "results_2026-01-01T00-00-00.json").write_text(
        json.dumps({**SCORES, "results": {"arc_easy": {"acc,none": 0.1}}})
    )
    (epoch / "results_2026-01-02T00-00-00.json").write_text(json.dumps(SCORES))
    text = text_of(epoch)
    assert "| arc_easy | acc | 0.5 ± 0.12 | 5 | 16 |\n| arc_easy | acc_norm | 0.25 | 5 | 16 |" in text
    assert "0.1 " not in text.partition("## Evaluation")[2].partition("## Config")[0]


def test_an_export_has_the_facts_of_its_checkpoint(tmp_path, epoch):
    facts = {"export": "gguf", "source": str(epoch)}
    checked = {"read_with": {"transformers": "5.23.0"}}
    target = tmp_path / "elsewhere" / "mine-gguf"

    def fill(folder):
        (folder / "mine.gguf").touch()
        (folder / "verify.json").write_text(json.dumps(checked))

    commit_folder(target, fill, facts=facts)
    text = text_of(target, "gguf", has_adapter=False)
    assert rows_of(text)["Steps"] == "4" and head_of(text)["tags"] == ["torchtune", "gguf"]
    assert "read these files with transformers 5.23.0" in text and "llama-server -hf me/mine" in text


def test_a_branch_and_a_chat_template_are_in_the_code(epoch):
    text = text_of(epoch, revision="v2")
    assert 'AutoTokenizer.from_pretrained("me/mine", revision="v2")' in text and "Once upon a time" in text
    (epoch / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert "apply_chat_template" in text_of(epoch)
