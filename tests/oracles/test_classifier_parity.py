"""Classifiers and reward models of every family against transformers: logits, files, adapters, fresh heads."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from family_cases import Case, all_cases
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from torchtune.errors import CheckpointError
from torchtune.models._adapters import lora
from torchtune.models.llama2 import llama2_classifier
from torchtune.models.mistral import mistral_classifier
from torchtune.modules import classifier_model
from torchtune.modules.peft import apply_lora
from torchtune.training.adapters import BaseWeights, load_adapters, start_adapters
from torchtune.training.checkpointing import FullModelHFCheckpointer
from torchtune.training.contents import contents_of
from torchtune.training.distributed import World
from torchtune.training.model import load_model

ALONE = World(0, 1, torch.device("cpu"))
SIZES = {"vocab_size": 97, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "embed_dim": 64, "intermediate_dim": 96}
SIZES |= {"max_seq_len": 64, "norm_eps": 1e-5}
LLAMA = Case("llama", "", {"rms_norm_eps": 1e-5})
MISTRAL = Case("mistral", "", {"rms_norm_eps": 1e-5, "sliding_window": None})
BUILDERS = {
    "llama2_classifier": (LLAMA, lambda n: llama2_classifier(n, **SIZES)),
    "mistral_classifier": (MISTRAL, lambda n: mistral_classifier(n, **SIZES)),
    "classifier_model": (LLAMA, lambda n: classifier_model(n, "torchtune.models.llama2.llama2", **SIZES)),
}


def first_of_each_model_type() -> dict[str, Case]:
    found = {case.model_type: case for case in reversed([LLAMA, *all_cases().values()])}
    return {name: case for name, case in found.items() if name in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES}


FAMILIES = first_of_each_model_type()
in_every_family = pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)
with_every_builder = pytest.mark.parametrize(("case", "build"), BUILDERS.values(), ids=BUILDERS)


def classifier(case: Case, folder: Path, classes: int, **settings: str) -> nn.Module:
    """Transformers' classifier with random weights, and its folder."""
    config = case.hf_config()
    config.num_labels = classes
    torch.manual_seed(0)
    made = transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    for parameter in made.parameters():
        parameter.data.normal_(0, case.std)
    made.save_pretrained(folder, **settings)
    return made.eval()


def ours(folder: Path, build: Callable[[], nn.Module] | None = None, **settings: str) -> nn.Module:
    checkpointer = FullModelHFCheckpointer(folder, **settings)
    build = build or (lambda: checkpointer.family.build(checkpointer.config))
    return load_model(build, checkpointer.weights, ALONE, dtype=torch.float32).eval()


def tokens_of(case: Case) -> Tensor:
    return torch.randint(3, 97, (2, case.seq_len), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same(model: nn.Module, theirs: nn.Module, case: Case) -> None:
    """Transformers gives the scores of the last token."""
    tokens = tokens_of(case)
    found, expected = model(tokens)[:, -1], theirs(tokens).logits
    torch.testing.assert_close(found, expected.float(), rtol=case.tolerance, atol=case.tolerance)


@pytest.mark.parametrize("classes", [1, 2, 3])
@in_every_family
def test_scores_are_transformers(case: Case, classes: int, tmp_path: Path) -> None:
    theirs = classifier(case, tmp_path, classes)
    model = ours(tmp_path)
    assert model.output.out_features == classes
    assert_same(model, theirs, case)


@pytest.mark.parametrize("model_type", [None, "REWARD"])
@with_every_builder
def test_builders_give_them(case: Case, build: Callable, model_type: str | None, tmp_path: Path) -> None:
    theirs = classifier(case, tmp_path, 3)
    assert_same(ours(tmp_path, lambda: build(3), model_type=model_type), theirs, case)


@in_every_family
def test_files_come_back_bit_for_bit(case: Case, tmp_path: Path) -> None:
    classifier(case, tmp_path / "theirs", 3)
    reader = FullModelHFCheckpointer(tmp_path / "theirs", output_dir=tmp_path / "out")
    with torch.device("meta"):
        shapes = reader.family.build(reader.config).state_dict()
    reader.save_checkpoint({"model": dict(reader.weights(shapes))}, epoch=0)
    written = tmp_path / "out" / "epoch_0"
    found = load_file(next(written.glob("*.safetensors")))
    expected = load_file(tmp_path / "theirs" / "model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert json.loads((written / "config.json").read_text()) == json.loads(
        (tmp_path / "theirs" / "config.json").read_text()
    )


@pytest.mark.parametrize("tied", [False, True])
@with_every_builder
def test_a_head_on_a_language_model_is_fresh_and_told(
    case: Case, build: Callable, tied: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Case(case.model_type, "", {**case.config, "tie_word_embeddings": tied}).oracle().save_pretrained(tmp_path / "base")
    checkpointer = FullModelHFCheckpointer(tmp_path / "base", output_dir=tmp_path / "out")
    with caplog.at_level(logging.WARNING):
        model = load_model(lambda: build(3), checkpointer.weights, ALONE, dtype=torch.float32).eval()
    assert "begins with random numbers" in caplog.text and "trainable_modules: [output]" in caplog.text
    head = model.output.weight
    assert 0.01 < head.std() < 0.03 and torch.equal(ours(tmp_path / "base", lambda: build(3)).output.weight, head)
    checkpointer.save_checkpoint({"model": model.state_dict()}, epoch=0)
    written = tmp_path / "out" / "epoch_0"
    theirs, told = transformers.AutoModelForSequenceClassification.from_pretrained(written, output_loading_info=True)
    assert not any(told.values()) and theirs.config.num_labels == 3
    assert_same(model, theirs.eval(), case)
    assert_same(ours(written), theirs, case)


def test_a_language_model_does_not_take_a_classifier(tmp_path: Path) -> None:
    from torchtune.models.llama2 import llama2

    classifier(LLAMA, tmp_path / "one", 3)
    with pytest.raises(CheckpointError, match=r"(?s)missing.*output.weight.*score.weight.*classifier of 3 classes"):
        ours(tmp_path / "one", lambda: llama2(**SIZES))
    with pytest.raises(CheckpointError, match="score.weight is .3, 64.; the model's output.weight is .2, 64."):
        ours(tmp_path / "one", lambda: llama2_classifier(2, **SIZES))
    tied = Case("llama", "", {**LLAMA.config, "tie_word_embeddings": True})
    classifier(tied, tmp_path / "tied", 3)
    config = FullModelHFCheckpointer(tmp_path / "tied").config | {"architectures": ["LlamaForCausalLM"]}
    checkpointer = FullModelHFCheckpointer(tmp_path / "tied")
    with pytest.raises(CheckpointError, match="score.weight"):
        ours(tmp_path / "tied", lambda: checkpointer.family.build(config))


# Adapters.


def adapted(build: Callable[[], nn.Module]) -> nn.Module:
    return lora(build, ["q_proj", "v_proj"], lora_rank=4, lora_alpha=6, trainable_modules=["output"])


def write(model: nn.Module, checkpointer: FullModelHFCheckpointer, base: BaseWeights, folder: Path, only: bool) -> Path:
    folder.mkdir()
    contents_of(model, checkpointer, base, ALONE, adapters_only=only).write(folder)
    return folder


@pytest.mark.parametrize("fresh", [False, True], ids=["on a classifier", "on a language model"])
@with_every_builder
def test_adapters_and_a_trained_head_go_to_peft_and_back(
    case: Case, build: Callable, fresh: bool, tmp_path: Path
) -> None:
    if fresh:
        case.oracle().save_pretrained(tmp_path / "base")
    else:
        classifier(case, tmp_path / "base", 3)
    checkpointer = FullModelHFCheckpointer(tmp_path / "base", output_dir=tmp_path / "out")
    base = BaseWeights(checkpointer)
    model = load_model(lambda: adapted(lambda: build(3)), base.weights, ALONE, dtype=torch.float32)
    start_adapters(model, seed=0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    alone = write(model, checkpointer, base, tmp_path / "alone", only=True)
    config = json.loads((alone / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["score"] and config["task_type"] == "SEQ_CLS"
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    assert_same(model.eval(), peft.PeftModel.from_pretrained(plain, alone).eval(), case)
    merged = write(model, checkpointer, base, tmp_path / "merged", only=False)
    assert_same(model, transformers.AutoModelForSequenceClassification.from_pretrained(merged).eval(), case)

    again = load_model(lambda: adapted(lambda: build(3)), base.weights, ALONE, dtype=torch.float32)
    load_adapters(again, checkpointer, alone, base)
    assert torch.equal(again.eval()(tokens_of(case)), model(tokens_of(case)))


def test_an_adapter_of_peft_is_read(tmp_path: Path) -> None:
    plain = classifier(MISTRAL, tmp_path / "base", 1)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "SEQ_CLS"}
    theirs = peft.get_peft_model(plain, peft.LoraConfig(**settings))
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.1)
    theirs.save_pretrained(tmp_path / "adapter")
    checkpointer = FullModelHFCheckpointer(tmp_path / "base")
    base = BaseWeights(checkpointer)

    def build() -> nn.Module:
        return apply_lora(mistral_classifier(1, **SIZES), ["q_proj", "v_proj"], rank=4, alpha=6, trainable=["output"])

    model = load_model(build, base.weights, ALONE, dtype=torch.float32)
    load_adapters(model, checkpointer, tmp_path / "adapter", base)
    assert_same(model.eval(), theirs.eval(), MISTRAL)


@pytest.mark.parametrize("family", ["llama2", "mistral"])
def test_reward_builders_with_adapters(family: str) -> None:
    from importlib import import_module

    module = import_module(f"torchtune.models.{family}")
    with torch.device("meta"):
        for prefix in ("lora", "qlora"):
            model = getattr(module, f"{prefix}_{family}_reward_7b")(["q_proj"], trainable_modules=["output"])
            assert model.output.weight.shape == (1, 4096) and model.output.weight.requires_grad
