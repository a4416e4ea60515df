"""Config nodes become objects; wrong arguments are named with their place."""

import functools

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from torchtune.config import instantiate, load, load_text, validate
from torchtune.config._utils import _get_component_from_path
from torchtune.errors import CheckpointError, ConfigError, MissingDependency


def test_nested_components_in_mappings_and_lists_are_made_first(parts):
    node = OmegaConf.create(
        {
            "n": 5,
            "node": {
                "_component_": "parts.anything",
                "inner": {"_component_": "parts.Options", "width": "${n}"},
                "many": [{"_component_": "parts.Logger", "log_dir": "d"}, 3, {"x": {"_component_": "parts.Logger"}}],
                "plain": {"a": [1, 2]},
            },
        }
    )
    made = instantiate(node.node)
    assert made["inner"].width == 5 and made["inner"].depth == 2
    assert made["many"][0].log_dir == "d" and made["many"][1] == 3 and made["many"][2]["x"].log_dir == "."
    assert type(made["plain"]) is dict and type(made["plain"]["a"]) is list


def test_positions_and_words_are_passed_on(parts):
    node = {"_component_": "parts.make_dataset", "source": "a", "packed": False}
    assert instantiate(node, "tok", packed=True, transform=OmegaConf.create({"a": [1]})) == (
        "tok", "a", True, {"a": [1]})  # fmt: skip
    assert node == {"_component_": "parts.make_dataset", "source": "a", "packed": False}


def test_partials_aliases_and_class_methods_of_the_users_own_files(parts):
    assert instantiate({"_component_": "parts.preset"}, "t")[:2] == ("t", "preset")
    assert instantiate({"_component_": "parts.alias", "source": "s"}, "t")[:2] == ("t", "s")
    assert instantiate({"_component_": "parts.Logger.named", "name": "x"}).log_dir == "x"
    assert instantiate({"_component_": "parts.Layer", "in_features": 2, "out_features": 3}).weight.shape == (3, 2)


def test_nothing_is_made_of_nothing():
    assert instantiate(None) is None


@pytest.mark.parametrize("node", [{"lr": 1}, [1], "torch.optim.SGD", 3])
def test_a_component_is_a_mapping_with_its_path(node):
    with pytest.raises(ConfigError, match="_component_"):
        instantiate(node)


def test_the_wrong_argument_is_named_with_its_line_and_the_nearest(parts):
    loaded = load("config.yaml", ["~optimizer.fused"])
    text = (parts / "config.yaml").read_text().replace("  fused: true", "  wieght_decay: 0.1")
    loaded = load_text(text, "c.yaml")
    with pytest.raises(ConfigError) as e:
        instantiate(loaded.cfg.optimizer, [])
    assert "c.yaml:17: optimizer.wieght_decay: torch.optim.AdamW does not take 'wieght_decay'" in str(e.value)
    assert "'weight_decay'" in str(e.value)


@pytest.mark.parametrize(
    ("node", "args", "part"),
    [
        ({"_component_": "parts.make_dataset"}, ("t",), "needs the argument 'source'"),
        (
            {"_component_": "parts.make_dataset", "tokenizer": 1, "source": 2},
            ("t",),
            "gets 'tokenizer' from the recipe",
        ),
        ({"_component_": "parts.Options"}, (1, 2, 3, 4), "by position"),
        ({"_component_": "parts.Options", "width": 1, "hidden": 2}, (), "does not take 'hidden'"),
        ({"_component_": "parts.missing"}, (), "has no 'missing'"),
        ({"_component_": "parts.make_datset"}, (), "'make_dataset'"),
        ({"_component_": "torch.optim"}, (), "is a module"),
        ({"_component_": "torchtune.nowhere.thing"}, (), "nowhere"),
        ({"_component_": "not a path"}, (), "dotted path"),
        ({"_component_": 3}, (), "must be a dotted path"),
        ({"_component_": "unknown_name"}, (), "not a dotted path"),
        ({"_component_": "parts.number"}, (), "not something that a config may run"),
        ({"_component_": "parts.anything", "x": {"_component_": "parts.Options"}}, (), "needs the argument 'width'"),
    ],
)
def test_what_cannot_be_made(parts, node, args, part):
    with pytest.raises(ConfigError, match=part):
        instantiate(node, *args)


def test_a_nested_fault_has_its_line(parts):
    loaded = load_text(
        "a:\n  _component_: parts.anything\n  l:\n    - _component_: parts.Options\n      wdth: 3\n", "f"
    )
    with pytest.raises(ConfigError, match=r"f:5: a\.l\[0\]\.wdth"):
        instantiate(loaded.cfg.a)


def test_errors_inside_a_component_are_its_own(parts):
    with pytest.raises(CheckpointError, match="the file is torn"):
        instantiate({"_component_": "parts.Broken"})


def test_an_unresolvable_reference_is_a_config_error():
    loaded = load_text("a:\n  _component_: torch.nn.Linear\n  in_features: ${missing}\n", "f")
    with pytest.raises(ConfigError, match="f:1: a: .*missing"):
        instantiate(loaded.cfg.a)


def test_a_package_that_is_not_installed(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingDependency, match="pip install bitsandbytes"):
        instantiate({"_component_": "bitsandbytes.optim.PagedAdamW"}, [])


def local_function(x=1):
    return x


def test_names_of_the_calling_script():
    assert instantiate({"_component_": "local_function", "x": 4}) == 4
    assert instantiate({"_component_": "other"}, caller_globals={"other": local_function, "__name__": __name__}) == 1
    with pytest.raises(ConfigError, match="not something that a config may run"):
        instantiate({"_component_": "partial"}, caller_globals={"partial": functools.partial, "__name__": "x"})


def test_former_names_and_the_private_one_of_copied_recipes(monkeypatch):
    import torch

    from torchtune.config import _names

    monkeypatch.setitem(_names.MOVED, "torchtune.utils.old", "torch.nn")
    assert _get_component_from_path("torchtune.utils.old.Linear") is torch.nn.Linear
    assert _names.current("torchtune.utils.FullModelMetaCheckpointer") == "torchtune.training.FullModelMetaCheckpointer"
    assert _names.current("torchtune.utils.metric_logging.WandBLogger") == (
        "torchtune.training.metric_logging.WandBLogger")  # fmt: skip
    assert _names.current("torchtune.utils.get_logger") == "torchtune.utils.get_logger"


def test_validate_lists_all_faults(parts):
    loaded = load("config.yaml", ["optimizer.a=1", "dataset.b=2"])
    validate(load("config.yaml").cfg)
    with pytest.raises(ConfigError) as e:
        validate(loaded.cfg)
    assert "does not take 'a'" in str(e.value) and "does not take 'b'" in str(e.value)
    with pytest.raises(ConfigError, match="lrr"):
        validate(DictConfig({"optimizer": {"_component_": "torch.optim.SGD", "lrr": 1}}))


@pytest.mark.parametrize(
    ("settings", "said"), [({"lr": -1}, "Invalid learning rate: -1"), ({"betas": [0.9]}, "index out of range")]
)
def test_what_an_optimizer_refuses_is_a_fault_of_the_config(settings, said):
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    with pytest.raises(ConfigError, match=f"torch.optim.AdamW: .*{said}"):
        instantiate({"_component_": "torch.optim.AdamW", **settings}, parameters)
