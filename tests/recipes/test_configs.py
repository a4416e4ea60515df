"""The shipped configs: equal to what the templates give, well-formed, listed, and of torchtune's values."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest
import torch
import yaml

from torchtune import config
from torchtune.cli import catalog
from torchtune.cli._configs import problems

REPO = Path(__file__).parents[2]
NAMES = [row.name for row in catalog.configs()]


def _script():
    spec = importlib.util.spec_from_file_location("render_configs", REPO / "scripts" / "render_configs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


def _content(name: str) -> dict:
    return yaml.safe_load(catalog.find_config(name).path.read_text())


def test_every_file_is_listed_and_every_listed_name_has_a_file():
    root = catalog.recipes_root() / "configs"
    on_disk = {str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml")}
    named = {name for names in catalog._CONFIGS_BY_RECIPE.values() for name in names}
    assert on_disk == set(NAMES) == named


@pytest.mark.parametrize("row", SCRIPT.ROWS, ids=lambda row: row.name)
def test_the_file_is_what_the_template_gives(row):
    assert catalog.find_config(row.name).path.read_text() == SCRIPT.render(row)


@pytest.mark.parametrize("name", NAMES)
def test_well_formed(name):
    config = catalog.find_config(name)
    recipe = catalog.recipe_of(config)
    assert problems(config.path, [], recipe.schema) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_key_says_what_the_catalog_says(name):
    assert _content(name)["recipe"] == catalog.find_config(name).row.recipe


def _components(node):
    if isinstance(node, dict):
        if "_component_" in node:
            yield node["_component_"]
        for value in node.values():
            yield from _components(value)


@pytest.mark.parametrize(
    "path", sorted({c for row in SCRIPT.ROWS for c in _components(yaml.safe_load(SCRIPT.render(row)))})
)
def test_the_component_exists(path):
    module, name = path.rsplit(".", 1)
    if not module.startswith("torchtune."):
        assert module in ("torch.optim", "bitsandbytes.optim")
        return
    file = REPO.joinpath(*module.split("."))
    source = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    bound = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    assert name in bound


def _models() -> dict[str, tuple[str, dict]]:
    """Each model that a row asks for, once."""
    nodes = {row.name: yaml.safe_load(SCRIPT.render(row))["model"] for row in SCRIPT.ROWS}
    return {json.dumps(node): (name, node) for name, node in reversed(nodes.items())}


@pytest.mark.parametrize("name, node", [pytest.param(*found, id=found[0]) for found in _models().values()])
def test_the_model_is_built(name, node):
    with torch.device("meta"):
        model = config.instantiate(node)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    adapted = {name for name in trained if name.endswith(("lora_a.weight", "lora_b.weight", "magnitude"))}
    adapters = node["_component_"].rpartition(".")[2].startswith(("lora_", "qlora_"))
    assert (trained == adapted and trained) if adapters else len(trained) == len(list(model.parameters()))
    layer = model.layers[-1]
    if adapters:
        assert layer.attn.q_proj.rank == layer.mlp.w2.rank == node["lora_rank"] == node["lora_alpha"] / 2
        assert not hasattr(layer.attn.k_proj, "rank") and hasattr(model.output, "rank") == (name == "llama2/13B_lora")
        assert any(name.endswith("magnitude") for name in trained) == ("dora" in name)


@pytest.mark.parametrize(
    "name, values",
    [
        ("llama3_2/1B_full_single_device", ("bitsandbytes.optim.PagedAdamW8bit", 2e-5, 4, 1, True, False)),
        ("llama3_2/3B_full", ("torch.optim.AdamW", 2e-5, 4, 8, False, True)),
        ("llama2/7B_full_low_memory", ("bitsandbytes.optim.PagedAdamW", 1e-5, 2, 1, True, True)),
        ("llama3/70B_full", ("torch.optim.AdamW", 2e-5, 2, 1, False, True)),
    ],
)
def test_torchtunes_values(name, values):
    found = _content(name)
    optimizer = found["optimizer"]
    assert values == (
        optimizer["_component_"],
        float(optimizer["lr"]),
        found["batch_size"],
        found["gradient_accumulation_steps"],
        found["optimizer_in_bwd"],
        found["enable_activation_checkpointing"],
    )


@pytest.mark.parametrize(
    "name, values",
    [
        ("llama3/8B_lora_single_device", ("llama3.lora_llama3_8b", 8, 2, 8, True, False, "alpaca_cleaned_dataset")),
        ("llama2/7B_qlora", ("llama2.qlora_llama2_7b", 8, 2, 8, True, False, "alpaca_cleaned_dataset")),
        ("llama3/8B_dora", ("llama3.lora_llama3_8b", 8, 2, 1, False, False, "alpaca_cleaned_dataset")),
        ("llama3_2/3B_lora", ("llama3_2.lora_llama3_2_3b", 64, 4, 8, False, False, "alpaca_cleaned_dataset")),
        ("llama3_3/70B_qlora", ("llama3_3.qlora_llama3_3_70b", 16, 2, 1, True, True, "alpaca_dataset")),
        ("llama3_1/405B_qlora", ("llama3_1.qlora_llama3_1_405b", 16, 1, 8, True, True, "alpaca_dataset")),
    ],
)
def test_torchtunes_values_for_adapters(name, values):
    found = _content(name)
    assert values == (
        found["model"]["_component_"].removeprefix("torchtune.models."),
        found["model"]["lora_rank"],
        found["batch_size"],
        found["gradient_accumulation_steps"],
        found["enable_activation_checkpointing"],
        found["save_adapter_weights_only"],
        found["dataset"]["_component_"].removeprefix("torchtune.datasets."),
    )
    assert found["optimizer"] == {"_component_": "torch.optim.AdamW", "lr": "3e-4", "fused": True, "weight_decay": 0.01}
    assert found["lr_scheduler"]["num_warmup_steps"] == 100
