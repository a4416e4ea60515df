"""`tune run`: which recipe, which config and how many processes a command line asks for; then runs it."""

import os
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torchtune.cli import catalog
from torchtune.cli._configs import allow, check_for_run
from torchtune.cli._nearest import did_you_mean
from torchtune.config import split_arguments
from torchtune.errors import ConfigError

USAGE = """\
usage: tune run [TORCHRUN-OPTIONS] [RECIPE] --config CONFIG [KEY=VALUE ...] [~KEY ...] [--allow-component PKG]

Run a recipe. With any of torchrun's options it runs in several processes, else in this one.

  RECIPE                 name (`tune ls`) or path of a recipe; may be left out when the config names it
  --config CONFIG        name (`tune ls`) or path of a config
  KEY=VALUE              set a key: batch_size=4, optimizer.lr=1e-5, model=torchtune.models.llama3.llama3_8b
  ~KEY                   leave a key of the config out
  --allow-component PKG  trust this package in the config's `_component_` entries

torchrun options, before RECIPE (`torchrun --help` explains them):
  {options}

examples:
  tune run full_finetune_single_device --config llama3_2/1B_full_single_device batch_size=2
  tune run --nproc_per_node 2 full_finetune_distributed --config llama3_2/1B_full
  tune run my_recipe.py --config my_config.yaml
"""

# torchrun's options and whether each takes a value (torch/distributed/run.py, get_args_parser): known here so that
# a command line is understood, and refused, before torch is loaded.
TORCHRUN_OPTIONS = {
    "nnodes": True,
    "nproc-per-node": True,
    "rdzv-backend": True,
    "rdzv-endpoint": True,
    "rdzv-id": True,
    "rdzv-conf": True,
    "standalone": False,
    "max-restarts": True,
    "monitor-interval": True,
    "start-method": True,
    "event-log-handler": True,
    "role": True,
    "module": False,
    "no-python": False,
    "run-path": False,
    "log-dir": True,
    "redirects": True,
    "tee": True,
    "local-ranks-filter": True,
    "duplicate-stdout-filters": True,
    "duplicate-stderr-filters": True,
    "node-rank": True,
    "master-addr": True,
    "master-port": True,
    "local-addr": True,
    "logs-specs": True,
    "numa-binding": True,
    "signals-to-handle": True,
    "shutdown-timeout": True,
    "virtual-local-rank": False,
}
_SHORT = {"-m": "module", "-r": "redirects", "-t": "tee"}


@dataclass
class CommandLine:
    """The parts of what follows `tune run`.

    Args:
        torchrun: torchrun's options as they were given.
        arguments: everything for the recipe except `--config` and `--allow-component`.
    """

    torchrun: list[str] = field(default_factory=list)
    recipe: str | None = None
    config: str | None = None
    allowed: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    @property
    def runs_a_file(self) -> bool:
        """Whether what is run is a Python file, not a module (-m) or another program (--no-python)."""
        return not {"module", "no-python"} & {_torchrun_option(given) for given in self.torchrun}


def run(argv: Sequence[str]) -> None:
    """Runs what the command line asks for; its exit code is the recipe's."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(options="  ".join(f"--{name}" for name in TORCHRUN_OPTIONS)))
        return
    line = parse(argv)
    config = catalog.find_config(line.config) if line.config else None
    recipe = _recipe(line, config)
    _prepare_environment(line)
    arguments = line.arguments
    if config:
        catalog.check_pair(recipe, config)
        arguments = [*arguments, *catalog.naming(recipe.row, config)]
        schema = recipe.row.schema if recipe.row else None
        output_dir = check_for_run(config.path, arguments, schema, line.allowed)
        if output_dir:
            os.environ["TUNE_LOG_DIR"] = str(Path(output_dir) / "logs")
        arguments = ["--config", str(config.path), *arguments]
    if line.torchrun:
        from torchtune.cli._launch import launch

        sys.exit(launch(line.torchrun, recipe.path, arguments))
    run_here(recipe.path, arguments)


def run_here(path: Path, arguments: Sequence[str]) -> None:
    """Runs a file in this process as `python path arguments...` would, with the current folder importable as well."""
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    runpy.run_path(str(path), run_name="__main__")


def parse(argv: Sequence[str]) -> CommandLine:
    """The parts of a command line, without looking at any file."""
    line = CommandLine()
    rest = list(argv)
    while rest and _torchrun_option(rest[0]):
        takes_value = TORCHRUN_OPTIONS[_torchrun_option(rest[0])] and "=" not in rest[0]
        if takes_value and len(rest) == 1:
            raise ConfigError(f"{rest[0]} wants a value after it")
        line.torchrun += rest[: 1 + takes_value]
        del rest[: 1 + takes_value]
    if rest and not rest[0].startswith(("-", "~")) and ("=" not in rest[0] or Path(rest[0]).is_file()):
        line.recipe = rest.pop(0)
    elif rest and rest[0].startswith("-") and rest[0].split("=")[0] not in ("--config", "--allow-component"):
        near = did_you_mean(rest[0].split("=")[0], [f"--{name}" for name in TORCHRUN_OPTIONS])
        raise ConfigError(f"{rest[0]} is not an option of `tune run` or torchrun.{near}\n`tune run --help` lists them.")
    line.config, line.allowed, line.arguments = split_arguments(rest)
    return line


def _torchrun_option(argument: str) -> str | None:
    """The full name of the torchrun option that an argument is, also when written with `_` or cut short."""
    if argument in _SHORT:
        return _SHORT[argument]
    if not argument.startswith("--"):
        return None
    name = argument[2:].split("=")[0].replace("_", "-")
    if name in TORCHRUN_OPTIONS:
        return name
    longer = [option for option in TORCHRUN_OPTIONS if name and option.startswith(name)]
    return longer[0] if len(longer) == 1 else None


def _recipe(line: CommandLine, config: catalog.Found | None) -> catalog.Found:
    if line.recipe and not line.runs_a_file:
        return catalog.Found(Path(line.recipe))
    if line.recipe:
        recipe = catalog.find_recipe(line.recipe)
        if isinstance(recipe.row, catalog.Recipe):
            _check_registered(recipe.row, line, config)
        return recipe
    if late := [word for word in line.arguments if catalog.recipe_row(word)]:
        raise ConfigError(f"{late[0]} is a recipe: put it before --config and the settings.")
    if config is None:
        raise ConfigError("`tune run` needs a recipe or a config: tune run [RECIPE] --config CONFIG. See `tune ls`.")
    row = catalog.recipe_of(config)
    if row is None:
        raise ConfigError(
            f"Which recipe is {line.config} for? It has no key `recipe`.\n"
            "Name it: tune run RECIPE --config CONFIG. `tune ls` lists the recipes."
        )
    return catalog.find_recipe(row.name)


def _check_registered(row: catalog.Recipe, line: CommandLine, config: catalog.Found | None) -> None:
    if config is None:
        names = [known.name for known in catalog.configs() if known.recipe == row.name]
        meant = [value for word in line.arguments if catalog.is_config(value := word.rpartition("=")[2])]
        raise ConfigError(
            f"The recipe {row.name} needs --config CONFIG, for example --config {[*meant, names[-1]][0]}."
        )
    late = [given for given in line.arguments if _torchrun_option(given)]
    if late:
        raise ConfigError(f"{late[0]} is an option of torchrun: put it before the recipe.")
    if row.supports_distributed and not line.torchrun:
        _note(f"{row.name} runs in one process: no torchrun option is given, for example --nproc_per_node 2.")
    if line.torchrun and not row.supports_distributed:
        _note(f"{row.name} runs under torchrun: one recipe serves one device and many.")


def _note(text: str) -> None:
    print(f"Note: {text}", file=sys.stderr)


def _prepare_environment(line: CommandLine) -> None:
    """What has to be set before torch, tokenizers or a worker starts."""
    # Threads that spin for long while they wait take the cores from the ones that compute; some microseconds of it make
    # two threads a sixth faster than none on a machine that is otherwise idle.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # The data loader forks; tokenizers would warn and switch its threads off anyway.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    allow(line.allowed)
