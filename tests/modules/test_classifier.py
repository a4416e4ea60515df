"""A classification head on a language model, and which builders a config may name."""

import sys

import pytest
import torch

from torchtune.errors import ConfigError
from torchtune.models.llama2 import llama2_classifier
from torchtune.models.llama3_2 import llama3_2
from torchtune.modules.classifier import classifier_model

SIZE = {"vocab_size": 20, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "embed_dim": 8, "max_seq_len": 16}


def test_equals_the_families_own_classifier():
    ours, theirs = classifier_model(3, "torchtune.models.llama2.llama2", **SIZE), llama2_classifier(3, **SIZE)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randint(0, 20, (2, 5))
    assert ours(tokens).shape == (2, 5, 3) and torch.equal(ours(tokens), theirs(tokens))


def test_a_tied_model_gets_a_head_of_its_own():
    model = classifier_model(1, llama3_2, **SIZE)
    assert model.state_dict()["output.weight"].shape == (1, 8)


def test_the_head_is_where_the_model_is():
    with torch.device("meta"):
        model = classifier_model(2, "torchtune.models.llama3_2.llama3_2_1b")
    assert model.output.weight.is_meta


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "torch.hub.load",
        "torchtune.models.llama2.nn.Linear",
        "torchtune.training.set_seed",
        "llama2_7b",
        "",
    ],
)
def test_paths_outside_are_refused(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="refused|leads to nothing"):
        classifier_model(2, path)


def test_an_object_from_elsewhere_is_refused():
    with pytest.raises(ConfigError, match="not name a builder that is defined in torchtune"):
        classifier_model(2, "torchtune.models._decoder.partial")


def test_unknown_names_and_non_models(monkeypatch):
    with pytest.raises(ConfigError, match="leads to nothing"):
        classifier_model(2, "torchtune.models.llama2.llama9")
    with pytest.raises(ConfigError, match="builds no decoder"):
        classifier_model(2, lambda: None)
    with pytest.raises(ConfigError, match="num_classes"):
        classifier_model(0, llama3_2)


def test_a_builder_in_the_current_folder(monkeypatch, tmp_path):
    (tmp_path / "my_builders.py").write_text(
        "from torchtune.models.llama3_2 import llama3_2\n\ndef small(**size):\n    return llama3_2(**size)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert classifier_model(2, "my_builders.small", **SIZE).output.out_features == 2
    monkeypatch.delitem(sys.modules, "my_builders")
