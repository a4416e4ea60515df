"""Which recipes and configs there are, and which file a name or a path given by the user means."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torchtune.cli._config_names import CONFIGS_BY_RECIPE
from torchtune.cli._nearest import did_you_mean
from torchtune.errors import ConfigError

_LAYOUTS = ("_single_device", "_distributed")
_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Recipe:
    """A name that `tune run` knows.

    Args:
        file: path below the recipes folder.
        schema: the class in `torchtune.config.schema` that types the recipe's keys.
        supports_distributed: whether torchrun's options are expected with this name.
    """

    name: str
    file: str
    schema: str
    supports_distributed: bool
    description: str

    @property
    def method(self) -> str:
        """The name without its layout: two recipes of one method take the same configs."""
        for layout in _LAYOUTS:
            if self.name.endswith(layout):
                return self.name.removesuffix(layout)
        return self.name


@dataclass(frozen=True)
class Config:
    """A config that comes with the package, and the recipe that it is for."""

    name: str
    recipe: str

    @property
    def file(self) -> str:
        """Path below the recipes folder."""
        return f"configs/{self.name}.yaml"


@dataclass(frozen=True)
class Found:
    """A file, and the row of the catalog that it was found by (None for a file of the user's)."""

    path: Path
    row: Recipe | Config | None = None


RECIPES = (
    Recipe(
        "full_finetune_single_device", "finetune.py", "FinetuneConfig", False, "train all parameters, on one device"
    ),
    Recipe(
        "full_finetune_distributed", "finetune.py", "FinetuneConfig", True, "train all parameters, on several devices"
    ),
    Recipe("lora_finetune_single_device", "finetune.py", "FinetuneConfig", False, "train adapters, on one device"),
    Recipe("lora_finetune_distributed", "finetune.py", "FinetuneConfig", True, "train adapters, on several devices"),
    Recipe("generate", "generate.py", "GenerateConfig", False, "answer a prompt, or a file of them"),
    Recipe("eleuther_eval", "eleuther_eval.py", "EvalConfig", False, "score a model on tasks of lm_eval"),
    Recipe("quantize", "quantize.py", "QuantizeConfig", False, "make a model's weights smaller"),
)

# torchtune's other methods, by the word that its recipes and configs have in their names.
LATER = ("qat", "dpo", "ppo", "grpo", "kd", "distillation")
# Its other model families, by the folder of their configs.
LATER_FAMILIES = ("llama3_2_vision", "llama4")

_TRAINING_KEYS = {"model", "dataset", "optimizer", "loss", "epochs", "batch_size", "gradient_accumulation_steps"}


@lru_cache
def recipes_root() -> Path:
    """The folder of recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "_recipes", package.parent / "recipes"):
        if (folder / "configs").is_dir():
            return folder
    raise FileNotFoundError(f"The recipes are neither in {package / '_recipes'} nor in {package.parent / 'recipes'}")


@lru_cache
def configs() -> tuple[Config, ...]:
    """The configs of this installation, in the order in which they are listed."""
    rows = (Config(name, recipe) for recipe, names in CONFIGS_BY_RECIPE.items() for name in names)
    return tuple(row for row in rows if (recipes_root() / row.file).exists())


def recipe_row(name: str) -> Recipe | None:
    """The row of a registered recipe."""
    return next((row for row in RECIPES if row.name == name), None)


def find_recipe(name: str) -> Found:
    """The recipe that a registered name, a local path (with or without .py) or a checkout's path stands for."""
    if row := recipe_row(name):
        return Found(recipes_root() / row.file, row)
    if (local := _local_file(name, (".py",))) and local.suffix not in _YAML:
        return Found(local)
    short = _without(name, "recipes/", (".py",))
    if row := recipe_row(short):
        return Found(recipes_root() / row.file, row)
    shipped = recipes_root() / f"{short}.py"
    if _is_inside(shipped) and shipped.is_file():
        return Found(shipped)
    if is_config(name):
        raise ConfigError(f"{name} is a config and no recipe: tune run --config {name}")
    near = _later(name) or did_you_mean(name, [row.name for row in RECIPES])
    raise ConfigError(f"There is no recipe {name!r}, and no file of that name.{near}\n`tune ls` lists the recipes.")


def find_config(name: str) -> Found:
    """The config that a registered name, a local path (with or without .yaml) or a checkout's path stands for."""
    rows = {row.name: row for row in configs()}
    if name in rows:
        return Found(recipes_root() / rows[name].file, rows[name])
    if local := _local_file(name, (".yaml", ".yml")):
        return Found(local)
    short = _without(_without(name, "recipes/", ()), "configs/", (".yaml", ".yml"))
    if short in rows:
        return Found(recipes_root() / rows[short].file, rows[short])
    near = _later(name) or did_you_mean(short, rows)
    raise ConfigError(f"There is no config {name!r}, and no file of that name.{near}\n`tune ls` lists the configs.")


def is_config(name: str) -> bool:
    """Whether a word stands for a config and not, for example, for a value."""
    return name in (row.name for row in configs()) or Path(name).suffix in _YAML and Path(name).is_file()


def find(name: str) -> Found:
    """The recipe or the config of that name or path."""
    for search in (find_config, find_recipe):
        try:
            return search(name)
        except ConfigError:
            continue
    near = _later(name) or did_you_mean(name, [row.name for row in (*RECIPES, *configs())])
    raise ConfigError(f"There is no recipe or config {name!r}, and no such file.{near}\n`tune ls` lists them all.")


def recipe_of(config: Found) -> Recipe | None:
    """The recipe that a config is for: what the catalog says, else its `recipe:` key; None if neither does."""
    if isinstance(config.row, Config):
        return recipe_row(config.row.recipe)
    name = _recipe_key(config.path)
    if name is None:
        return None
    # Names only: a config is data, and must not be able to start a file of its own choice.
    if row := recipe_row(name):
        return row
    near = did_you_mean(name, [row.name for row in RECIPES])
    raise ConfigError(f"{config.path}: `recipe: {name}` is not one of the recipes.{near}\n`tune ls` lists them.")


def guess_recipe(config: Found) -> Recipe | None:
    """The recipe that a config without a `recipe:` key is most likely for, by its top-level keys and its model."""
    content = _content(config.path)
    if "max_new_tokens" in content:
        return recipe_row("generate")
    if "tasks" in content:
        return recipe_row("eleuther_eval")
    if len(content.keys() & _TRAINING_KEYS) < 2:
        return recipe_row("quantize") if content.get("quantizer") else None
    model = content.get("model")
    builder = str(model.get("_component_") if isinstance(model, dict) else model).rpartition(".")[2]
    method = "lora" if builder.startswith(("lora_", "qlora_")) else "full"
    return recipe_row(f"{method}_finetune_single_device")


def naming(recipe: Recipe | None, config: Found) -> list[str]:
    """The setting `recipe=NAME` for a config that does not say itself which recipe it is for; else nothing."""
    return [f"recipe={recipe.name}"] if recipe and recipe_of(config) is None else []


def _later(name: str) -> str:
    """A sentence for names of torchtune whose method or model is not part of this version; else nothing."""
    words = re.split(r"[/_.]", name.lower())
    family = _without(_without(name, "recipes/", ()), "configs/", ()).partition("/")[0]
    method = next((word for word in LATER if word in words), None)
    if method:
        return f" Recipes and configs for {method} are not part of this version."
    return f" Configs for the model family {family} are not part of this version." if family in LATER_FAMILIES else ""


def check_pair(recipe: Found, config: Found) -> None:
    """Refuses a registered recipe with a config that is for another method."""
    if not isinstance(recipe.row, Recipe):
        return
    meant = recipe_of(config)
    if meant and meant.method != recipe.row.method:
        raise ConfigError(
            f"The config {config.row.name if config.row else config.path} is for the recipe {meant.name}, "
            f"not for {recipe.row.name}.\nRun: tune run {meant.name} --config ..."
        )


def _recipe_key(path: Path) -> str | None:
    """The value of the top-level key `recipe`."""
    name = _content(path).get("recipe")
    return None if name is None else str(name)


def _content(path: Path) -> dict:
    """A file's top-level keys and values; none when it is no config, which is left for the config reader to refuse."""
    from torchtune.config import read_file

    try:
        return read_file(path)
    except ConfigError:
        return {}


def _local_file(name: str, suffixes: tuple[str, ...]) -> Path | None:
    path = Path(name).expanduser()
    candidates = (path, *(path.with_name(path.name + suffix) for suffix in suffixes)) if path.name else ()
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _without(name: str, prefix: str, suffixes: tuple[str, ...]) -> str:
    name = name.removeprefix("./").removeprefix(prefix)
    for suffix in suffixes:
        name = name.removesuffix(suffix)
    return name


def _is_inside(path: Path) -> bool:
    return path.resolve().is_relative_to(recipes_root().resolve())
