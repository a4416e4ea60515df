"""The shipped configs: equal to what the template gives, well-formed, listed, and of models that can be built."""

import json
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from torchtune import config
from torchtune.cli import catalog
from torchtune.cli._config_names import CONFIGS_BY_RECIPE
from torchtune.cli._configs import examine
from torchtune.config import schema
from torchtune.models import family_for_model_type
from torchtune.modules.peft import adapter_spec
from torchtune.modules.tied_linear import TiedLinear

REPO = Path(__file__).parents[2]
NAMES = [row.name for row in catalog.configs()]
sys.path.insert(0, str(REPO / "scripts"))
import render_configs  # noqa: E402

MLP = {"w1", "w2", "w3"}


@cache
def _content(name: str) -> dict:
    return OmegaConf.to_container(config.load(catalog.find_config(name).path).cfg)


def test_every_file_is_listed_and_every_listed_name_has_a_file():
    root = catalog.recipes_root() / "configs"
    on_disk = {str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml")}
    named = [name for names in CONFIGS_BY_RECIPE.values() for name in names]
    assert on_disk == set(NAMES) and sorted(on_disk) == sorted(named)


@pytest.mark.parametrize("row", render_configs.ROWS, ids=lambda row: row.name)
def test_the_file_is_what_the_template_gives(row):
    assert catalog.find_config(row.name).path.read_text() == render_configs.render(row)


@pytest.mark.parametrize("name", NAMES)
def test_well_formed_and_so_is_what_a_run_saves_of_it(name, tmp_path):
    path, recipe = catalog.find_config(name).path, catalog.recipe_row(catalog.find_config(name).row.recipe)
    assert examine(path, [], recipe.schema)[0] == []
    cfg = config.read_config(config.load(path), getattr(schema, recipe.schema))
    assert examine(config.save(cfg, tmp_path / "saved.yaml"), [], recipe.schema)[0] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_key_says_what_the_catalog_says(name):
    assert _content(name)["recipe"] == catalog.find_config(name).row.recipe


def _components(node):
    if isinstance(node, dict):
        if "_component_" in node:
            yield node["_component_"]
        for value in node.values():
            yield from _components(value)


@pytest.mark.parametrize("path", sorted({c for name in NAMES for c in _components(_content(name))}))
def test_the_component_exists(path):
    if path.startswith("bitsandbytes."):
        assert path.rpartition(".")[2] in ("PagedAdamW", "PagedAdamW8bit")  # imported on a GPU only
    else:
        assert callable(config.get_component(path))


def _models() -> dict[str, tuple[str, dict]]:
    """Each model that a config asks for, once, with the name of the first that does; not those that a folder tells."""
    nodes = {name: _content(name)["model"] for name in reversed(NAMES)}
    return {json.dumps(node): (name, node) for name, node in nodes.items() if "checkpoint_dir" not in node}


@pytest.mark.parametrize("name, node", [pytest.param(*found, id=found[0]) for found in _models().values()])
def test_the_model_is_built_as_the_config_says(name, node):
    with torch.device("meta"):
        model = config.instantiate(node)
    names = [n for n, _ in model.named_parameters()]
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    adapters = [n for n in names if n.endswith(("lora_a.weight", "lora_b.weight", "magnitude"))]
    if model_type := _content(name)["checkpointer"].get("model_type"):
        own = [n for n in names if n not in adapters and not n.endswith("weight_scale")]
        family_for_model_type(model_type).hf.plan_write(own, head_dim=64)  # refuses names that are not this family's
    if "lora_rank" in node:
        assert trained == adapters
        _check_adapters(model, node)
    else:
        assert trained == names and not adapters
    assert any(n.endswith("weight_scale") for n in names) == ("qlora" in name or "qdora" in name)


def _check_adapters(model: torch.nn.Module, node: dict) -> None:
    spec = adapter_spec(model)
    wanted = {f"layers.{i}.attn.{target}" for i in range(len(model.layers)) for target in node["lora_attn_modules"]}
    wanted |= {f"layers.{i}.mlp.{target}" for i in range(len(model.layers)) for target in MLP}
    wanted |= {"output"} if node.get("apply_lora_to_output") else set()
    assert spec.ranks == dict.fromkeys(wanted, node["lora_rank"]) and node["apply_lora_to_mlp"]
    assert spec.alphas == dict.fromkeys(wanted, node["lora_alpha"]) and spec.dropout == node["lora_dropout"]
    assert spec.use_dora == node.get("use_dora", False)
    # The line is there where the projection is a module of its own, so that it could have an adapter.
    assert ("apply_lora_to_output" in node) != isinstance(model.output, TiedLinear)
