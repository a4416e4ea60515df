"""Which file a name or path stands for, and which recipe a config is for."""

import pytest

from torchtune.cli import catalog
from torchtune.errors import ConfigError

SINGLE, MANY = "full_finetune_single_device", "full_finetune_distributed"
LORA, LORA_MANY = "lora_finetune_single_device", "lora_finetune_distributed"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [SINGLE, MANY, LORA, LORA_MANY, f"recipes/{SINGLE}.py", f"{LORA}.py", "recipes/finetune.py", "./recipes/finetune"],
)
def test_a_recipe_is_found_outside_a_checkout(folder, name):
    assert catalog.find_recipe(name).path == catalog.recipes_root() / "finetune.py"


@pytest.mark.parametrize(
    "name",
    [
        "llama3_2/1B_full",
        "llama3_2/1B_full.yaml",
        "recipes/configs/llama3_2/1B_full.yaml",
        "./recipes/configs/llama3_2/1B_full.yaml",
        "configs/llama3_2/1B_full",
    ],
)
def test_a_config_is_found_outside_a_checkout(folder, name):
    found = catalog.find_config(name)
    assert found.path == catalog.recipes_root() / "configs/llama3_2/1B_full.yaml"
    assert found.row == catalog.Config("llama3_2/1B_full", MANY)


def test_a_local_file_goes_before_a_shipped_one_of_the_same_path(folder):
    local = folder / "recipes/configs/llama3_2/1B_full.yaml"
    local.parent.mkdir(parents=True)
    local.write_text("a: 1")
    assert catalog.find_config("recipes/configs/llama3_2/1B_full.yaml").path.resolve() == local
    assert catalog.find_config("llama3_2/1B_full").row is not None


@pytest.mark.parametrize(
    "given", ["my-own.recipe.py", "./my-own.recipe.py", "my-own.recipe", "{folder}/my-own.recipe.py"]
)
def test_local_recipes_of_any_name(folder, given):
    (folder / "my-own.recipe.py").touch()
    found = catalog.find_recipe(given.format(folder=folder))
    assert found.path.resolve() == folder / "my-own.recipe.py"
    assert found.row is None


@pytest.mark.parametrize("given", ["mine", "mine.yml", "./mine"])
def test_local_configs_with_and_without_ending(folder, given):
    (folder / "mine.yml").write_text("a: 1")
    assert catalog.find_config(given).path.resolve() == folder / "mine.yml"


def test_a_path_out_of_the_recipes_folder_is_not_followed(folder):
    with pytest.raises(ConfigError):
        catalog.find_recipe("recipes/../torchtune/errors")


@pytest.mark.parametrize(
    "search, wrong, right",
    [
        (catalog.find_recipe, "full_finetune_single_devise", SINGLE),
        (catalog.find_config, "llama3.2/1B_full", "llama3_2/1B_full"),
        (catalog.find_config, "70B_full", "llama3/70B_full"),
        (catalog.find, "llama3_2/1B_ful", "llama3_2/1B_full"),
        (catalog.find_recipe, "lora_finetune_single_devise", LORA),
        (catalog.find_config, "llama3/8B_lora_single", "llama3/8B_lora_single_device"),
    ],
)
def test_unknown_names_get_the_nearest(folder, search, wrong, right):
    with pytest.raises(ConfigError, match=f"Did you mean .*{right}"):
        search(wrong)


@pytest.mark.parametrize(
    "name, missing",
    [
        ("llama2/7B_lora_dpo", "dpo"),
        ("llama3/8B_qat_lora.yaml", "qat"),
        ("qat_lora_finetune_distributed", "qat"),
        ("llama3_2/8B_to_1B_KD_lora_single_device", "kd"),
        ("llama4/scout_17B_16E_lora", "the model family llama4"),
        ("recipes/configs/llama3_2_vision/11B_lora_single_device.yaml", "the model family llama3_2_vision"),
    ],
)
def test_names_of_torchtune_that_are_not_here_are_called_so(folder, name, missing):
    with pytest.raises(ConfigError, match=f"for {missing} are not part of this version"):
        catalog.find(name)


def test_the_recipe_of_a_copied_config_is_in_the_file(folder):
    source = catalog.find_config("llama3_2/1B_full_single_device").path
    (folder / "mine.yaml").write_text(source.read_text())
    assert catalog.recipe_of(catalog.find_config("mine")).name == SINGLE


def test_a_config_can_name_only_a_registered_recipe(folder):
    (folder / "evil.py").touch()
    (folder / "mine.yaml").write_text("recipe: ./evil.py")
    with pytest.raises(ConfigError, match="not one of the recipes"):
        catalog.recipe_of(catalog.find_config("mine.yaml"))


def test_layouts_of_one_method_share_configs_and_methods_do_not():
    one_device, many = catalog.find_recipe(SINGLE), catalog.find_recipe(MANY)
    config = catalog.find_config("llama3_2/1B_full")
    catalog.check_pair(one_device, config)
    catalog.check_pair(many, config)
    other = catalog.Found(one_device.path, catalog.Recipe("dpo_distributed", "dpo.py", "DPOConfig", True, ""))
    with pytest.raises(ConfigError, match=f"is for the recipe {MANY}, not for dpo_distributed"):
        catalog.check_pair(other, config)
    with pytest.raises(ConfigError, match=f"is for the recipe {LORA_MANY}, not for {SINGLE}"):
        catalog.check_pair(one_device, catalog.find_config("llama3/8B_lora"))
    catalog.check_pair(catalog.find_recipe(LORA), catalog.find_config("llama3/8B_lora"))


@pytest.mark.parametrize(
    "model, method",
    [
        ("{_component_: torchtune.models.llama3.lora_llama3_8b}", "lora"),
        ("{_component_: mine.qlora_own}", "lora"),
        ("lora_llama3_8b", "lora"),
        ("{_component_: torchtune.models.llama3.llama3_8b}", "full"),
        ("null", "full"),
    ],
)
def test_the_recipe_of_a_config_that_names_none_is_guessed_by_its_model(folder, model, method):
    (folder / "mine.yaml").write_text(f"model: {model}\nepochs: 1\n")
    config = catalog.find_config("mine")
    assert catalog.guess_recipe(config).name == f"{method}_finetune_single_device"
    assert catalog.naming(catalog.recipe_row(LORA), config) == [f"recipe={LORA}"]
    assert catalog.naming(None, config) == []


def test_a_config_that_names_its_recipe_is_left_to_it(folder):
    (folder / "mine.yaml").write_text(f"recipe: {LORA}\n")
    assert catalog.naming(catalog.recipe_row(LORA_MANY), catalog.find_config("mine")) == []
