"""The YAML of the two oldest guides, copied as it stands there, and short names."""

import pytest
from omegaconf import OmegaConf

from torchtune.config import check, load_text, notes
from torchtune.config.schema import FinetuneConfig

FLAT = """\
# Dataset and Dataloader
dataset: alpaca
seed: null
shuffle: True

# Model Arguments
model: llama2_7b
model_checkpoint: /tmp/llama2-7b
tokenizer: llama2_tokenizer
tokenizer_checkpoint: /tmp/tokenizer.model

# Fine-tuning arguments
batch_size: 2
lr: 2e-5
epochs: 3
optimizer: SGD
loss: CrossEntropyLoss
output_dir: /tmp/alpaca-llama2-finetune
device: cuda
dtype: fp32
enable_fsdp: True
enable_activation_checkpointing: True
resume_from_checkpoint: False
"""

SLIPPED = """\
# Tokenizer
tokenizer:
  _component_: torchtune.models.llama2.llama2_tokenizer
  path: /tmp/tokenizer.model

# Dataset
dataset:
  _component_: torchtune.datasets.alpaca_dataset
seed: 42
shuffle: True

# Model Arguments
model:
_component_: torchtune.models.llama2.llama2_7b

checkpointer:
  _component_: torchtune.utils.FullModelMetaCheckpointer
  checkpoint_dir: /tmp/llama2
  checkpoint_files: [consolidated.00.pth]
  recipe_checkpoint: null
  output_dir: /tmp/llama2
  model_type: LLAMA2
resume_from_checkpoint: False

# Fine-tuning arguments
batch_size: 2
epochs: 1
optimizer:
  _component_: torch.optim.SGD
  lr: 1e-5
loss:
  _component_: torch.nn.CrossEntropyLoss

output_dir: /tmp/alpaca-llama2-finetune

device: cuda
dtype: bf16

enable_activation_checkpointing: True
"""


def test_the_flat_config_runs_as_it_stands():
    loaded = load_text(FLAT, "flat.yaml")
    assert check(loaded, FinetuneConfig) == []
    cfg = OmegaConf.to_container(loaded.cfg, resolve=True)
    assert cfg["model"] == {"_component_": "torchtune.models.llama2.llama2_7b"}
    assert cfg["tokenizer"] == {
        "_component_": "torchtune.models.llama2.llama2_tokenizer",
        "path": "/tmp/tokenizer.model",
    }
    assert cfg["dataset"] == {"_component_": "torchtune.datasets.alpaca_dataset"}
    assert cfg["optimizer"] == {"_component_": "torch.optim.SGD", "lr": 2e-5}
    assert cfg["loss"] == {"_component_": "torch.nn.CrossEntropyLoss"}
    assert cfg["checkpointer"] == {
        "_component_": "torchtune.training.checkpointing.checkpointer_for",
        "checkpoint_dir": "/tmp/llama2-7b",
        "output_dir": "/tmp/alpaca-llama2-finetune",
    }
    assert "enable_fsdp" not in cfg
    text = "\n".join(notes(loaded, FinetuneConfig))
    for said in ("dataset: alpaca", "model: llama2_7b", "tokenizer:", "optimizer: SGD", "loss:", "lr:", "enable_fsdp:",
                 "model_checkpoint:", "tokenizer_checkpoint:"):  # fmt: skip
        assert said in text


def test_the_slip_in_the_first_guide_is_named_with_its_line():
    found = check(load_text(SLIPPED, "custom_config.yaml"), FinetuneConfig)
    assert len(found) == 1, found
    assert found[0].line == 14 and found[0].key == "model"
    assert "`model:` on line 13 is empty" in found[0].message and "Indent it by two spaces" in found[0].message


def test_the_first_guide_without_the_slip_has_no_faults():
    mended = SLIPPED.replace("model:\n_component_", "model:\n  _component_")
    assert check(load_text(mended, "custom_config.yaml"), FinetuneConfig) == []


def test_overrides_find_flat_keys_where_they_went():
    words = [
        "lr=1e-3",
        "model=llama2_13b",
        "dataset=alpaca_cleaned",
        "model_checkpoint=/x",
        "tokenizer_checkpoint=/y",
    ]
    cfg = load_text(FLAT, "f", words).cfg
    assert cfg.optimizer.lr == 1e-3 and "lr" not in cfg
    assert cfg.model._component_ == "torchtune.models.llama2.llama2_13b"
    assert cfg.dataset._component_ == "torchtune.datasets.alpaca_cleaned_dataset"
    assert cfg.checkpointer.checkpoint_dir == "/x" and cfg.tokenizer.path == "/y"


@pytest.mark.parametrize(
    ("word", "key", "path"),
    [
        ("model=auto", "model", "torchtune.models.auto"),
        ("model=lora_auto", "model", "torchtune.models.lora_auto"),
        ("tokenizer=auto", "tokenizer", "torchtune.models.auto_tokenizer"),
        ("tokenizer=llama3", "tokenizer", "torchtune.models.llama3.llama3_tokenizer"),
        ("dataset=chat", "dataset", "torchtune.datasets.chat_dataset"),
    ],
)
def test_a_short_name_means_what_its_key_is_for(word, key, path):
    assert load_text(FLAT, "f", [word]).cfg[key]._component_ == path


def test_short_names_in_a_list():
    text = FLAT.replace("dataset: alpaca", "dataset: [alpaca, {_component_: chat, weight: 2}, {_component_: my.own}]")
    cfg = load_text(text, "f").cfg
    assert [each._component_ for each in cfg.dataset] == [
        "torchtune.datasets.alpaca_dataset", "torchtune.datasets.chat_dataset", "my.own"
    ]  # fmt: skip


@pytest.mark.parametrize(("clean", "name"), [("True", "alpaca_cleaned_dataset"), ("False", "alpaca_dataset")])
def test_arguments_of_the_flat_dataset(clean, name):
    loaded = load_text(FLAT + f"use_clean: {clean}\ntrain_on_input: False\n", "f")
    assert loaded.cfg.dataset == {"_component_": f"torchtune.datasets.{name}", "train_on_input": False}
    assert check(loaded, FinetuneConfig) == []


@pytest.mark.parametrize(
    ("line", "wrong", "parts"),
    [
        (15, "optimizer: SDG", ["nothing named 'SDG'", "'SGD'"]),
        (7, "model: llama2_8b", ["nothing named 'llama2_8b'", "'llama2_7b'"]),
        (2, "dataset: alpca", ["'alpca'", "'alpaca'"]),
        (16, "loss: CrosEntropyLoss", ["'CrossEntropyLoss'"]),
    ],
)
def test_a_wrong_short_name_has_its_line_and_the_nearest(line, wrong, parts):
    lines = FLAT.splitlines()
    at = next(i for i, text in enumerate(lines) if text.startswith(wrong.partition(" ")[0]))
    lines[at] = wrong
    (found,) = check(load_text("\n".join(lines), "f"), FinetuneConfig)
    assert found.line == at + 1 and all(p in found.message for p in parts), found


def test_a_key_that_is_referred_to_is_not_taken_for_a_flat_one():
    text = FLAT.replace("optimizer: SGD", "optimizer:\n  _component_: torch.optim.SGD\n  lr: ${lr}")
    loaded = load_text(text, "f")
    assert loaded.cfg.optimizer.lr == 2e-5 and loaded.cfg.lr == 2e-5
    assert check(loaded, FinetuneConfig) == []


def test_a_profiler_without_a_path_is_torchtunes():
    loaded = load_text("profiler:\n  enabled: False\n", "f")
    assert loaded.cfg.profiler._component_ == "torchtune.training.setup_torch_profiler"


def test_a_component_at_the_margin_under_no_empty_key():
    (found,) = [p for p in check(load_text("epochs: 1\n_component_: a.b\n", "f")) if "margin" in p.message]
    assert found.line == 2
