"""A config cannot run what it should not, by any name, and nothing foreign is imported while that is decided."""

import subprocess
import sys

import pytest

from torchtune.config import check, get_component, instantiate, load_text
from torchtune.errors import ConfigError

ATTACKS = [
    "os.system", "posix.system", "subprocess.check_call", "subprocess.Popen", "builtins.eval",
    "builtins.exec", "shutil.rmtree", "pickle.loads", "importlib.import_module", "functools.partial",
    "pathlib.Path.unlink", "runpy.run_path", "torch.load", "torch.hub.load", "torch.serialization.load",
    "torch.ops.load_library", "torch.compile", "torch.utils.cpp_extension.load",
    "torch.utils.cpp_extension.load_inline", "torch.jit.load", "torch.classes.load_library",
    "torch.nn.os.system", "torch.optim.sys.modules", "torch.optim.optimizer.functools.partial",
    "torch.optim.lr_scheduler.types.FunctionType", "torch.optim.lr_scheduler.warnings.warn",
    "torch.nn.functional.importlib.util.find_spec", "torch.nn.functional.importlib.import_module",
    "torch.nn.modules.linear.torch.hub.load", "torch.nn.functional.torch.load",
    "torch.nn.modules.module.torch.load", "torch.nn.parallel.distributed.os.system",
    "torch.nn.parallel.distributed.sys.exit", "torch.utils.data.dataloader.os.system",
    "torch.utils.data.dataloader.multiprocessing.Process", "torch.utils.data.dataloader.queue.Queue",
    "torch.utils.data._utils.worker.os.system", "torch.utils.data._utils.pin_memory.threading.Thread",
    "torch.utils.data.datapipes.iter.FileOpener",
    "torch.utils.data.datapipes.iter.callable.MapperIterDataPipe", "torch.utils.data.graph.pickle.loads",
    "torch.nn.Module.load_state_dict", "torch.nn.Module.__init__.__globals__", "torch.nn.Module.__class__",
    "torch.nn.Embedding.from_pretrained", "torch.optim.Optimizer.__reduce__", "torch.nn.__dict__",
    "torch.nn.__loader__.load_module", "torch.optim.__builtins__.eval",
    "torch.nn.modules.module.register_module_forward_hook", "torch.nn.functional.handle_torch_function",
    "torchtune.config.os.system", "torchtune.config._parse.os.system", "torchtune.config.instantiate",
    "torchtune.config.get_component", "torchtune.cli.main", "torchtune.import_module",
    "torchtune.__loader__.exec_module", "torchtune.config._resolve.import_module",
    "torchtune.errors.ConfigError.__init__", "torchtune.utils.os.system",
    "torchtune.config._resolve.subprocess.run", "bitsandbytes.utils.execute_and_return",
    "torchao.utils.benchmark_model", "parts.os.system", "parts.system", "parts.sp.check_call", "parts.run",
    "parts.shell", "parts.torch.load", "parts.torch.hub.load", "parts.handle", "parts.logger.shout",
    "parts.logger", "parts.anonymous", "parts.OrderedDict", "parts.functools.partial", "parts.number",
    "parts.Logger.shout", "parts.__builtins__.eval", "parts.dataclass", "parts.make_dataset.__globals__",
    "parts", "torch", "os", "..os.system", "os.system.", "a b.c", "parts:run", "/bin/sh",
]  # fmt: skip


@pytest.mark.parametrize("path", ATTACKS)
def test_no_alias_reaches_what_a_config_must_not_run(parts, path):
    before = set(sys.modules)
    with pytest.raises(ConfigError):
        instantiate({"_component_": path}, caller_globals={})
    foreign = {m for m in set(sys.modules) - before if not m.startswith(("torch", "parts", "torchtune"))}
    assert not foreign & {"shutil", "pickle", "runpy", "posix", "torch.hub"}


@pytest.mark.parametrize(
    "path", [a for a in ATTACKS if a.startswith(("os.", "torch.", "subprocess", "parts.os", "torchtune."))]
)
def test_check_refuses_them_too(parts, path):
    found = check(load_text(f"x:\n  _component_: {path}\n", "f"))
    assert found and found[0].line == 2


def test_refusing_imports_nothing(tmp_path):
    """Neither torch.hub nor a package on the path is imported on the way to a refusal."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "evil.py").write_text("open('PWNED', 'w').close()\ndef f(): pass\n")
    script = """
import sys
from torchtune.config import instantiate, check, load_text
from torchtune.errors import ConfigError
for path in ("evil.f", "torch.hub.load", "torch.load", "os.system", "torch.utils.cpp_extension.load"):
    assert check(load_text(f"a:\\n  _component_: {path}\\n")), path
    try:
        instantiate({"_component_": path}, caller_globals={})
    except ConfigError as e:
        assert "--allow-component" in str(e), e
    else:
        raise SystemExit(path)
assert not {"torch", "evil"} & set(sys.modules)
"""
    env = {"PYTHONPATH": f"{tmp_path / 'site'}:{_repository()}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "PWNED").exists()


def _repository():
    import torchtune

    return next(iter(torchtune.__path__)).rpartition("/")[0]


def test_packages_are_allowed_by_command_line_and_environment_only(parts, monkeypatch):
    text = "TUNE_ALLOW_COMPONENTS: collections\nallow: collections\nx:\n  _component_: collections.Counter\n"
    assert check(load_text(text))
    assert not check(load_text(text), allow=["collections"])
    assert check(load_text(text), allow=["*"]) and check(load_text(text), allow=["collection"])
    monkeypatch.setenv("TUNE_ALLOW_COMPONENTS", "json, collections")
    assert not check(load_text(text))
    assert instantiate({"_component_": "collections.Counter"}) == {}
    with pytest.raises(ConfigError):
        instantiate({"_component_": "os.system"})
    monkeypatch.setenv("TUNE_ALLOW_COMPONENTS", "*")
    with pytest.raises(ConfigError):
        instantiate({"_component_": "os.system"})


@pytest.mark.parametrize("name", ["random", "json", "torch", "yaml", "torchtune", "numpy"])
def test_a_local_file_does_not_stand_in_for_an_installed_package(parts, monkeypatch, name):
    (parts / f"{name}.py").write_text("open('PWNED', 'w').close()\ndef trap(): pass\n")
    for path in ([], [str(parts)]):
        monkeypatch.setattr(sys, "path", path + sys.path)
        with pytest.raises(ConfigError):
            get_component(f"{name}.trap")
    assert check(load_text(f"x:\n  _component_: {name}.trap\n"))
    assert not (parts / "PWNED").exists()


def test_a_local_package_and_its_modules(parts):
    (parts / "my_pkg" / "deep").mkdir(parents=True)
    (parts / "my_pkg" / "__init__.py").write_text("from .deep.mod import build as built\nfrom os import system\n")
    (parts / "my_pkg" / "deep" / "mod.py").write_text("from parts import Logger\ndef build(x): return Logger(x)\n")
    assert get_component("my_pkg.deep.mod.build")("q").log_dir == "q"
    assert get_component("my_pkg.built")("r").log_dir == "r"
    with pytest.raises(ConfigError):
        get_component("my_pkg.system")
    assert check(load_text("x:\n  _component_: my_pkg.built\n  y: 1\n"))


def test_a_name_made_at_run_time_is_judged_by_the_object(parts):
    (parts / "lazy.py").write_text(
        "import importlib\ndef __getattr__(n):\n    return getattr(importlib.import_module('os'), n)\n"
    )
    assert not check(load_text("x:\n  _component_: lazy.system\n"))  # the source cannot tell
    with pytest.raises(ConfigError, match="posix.system"):
        get_component("lazy.system")


def test_the_hint_says_that_a_local_file_has_a_taken_name(parts):
    (parts / "json.py").write_text("def f(): pass")
    with pytest.raises(ConfigError, match="has the name of an installed package"):
        get_component("json.f")


@pytest.mark.parametrize(
    "path",
    ["torch.optim.AdamW", "torch.nn.CrossEntropyLoss", "torch.nn.functional.gelu", "torch.nn.functional.cross_entropy",
     "torch.optim.lr_scheduler.CosineAnnealingLR", "torch.utils.data.DataLoader", "torch.utils.data.default_collate",
     "torch.utils.data.random_split", "torch.nn.init.normal_", "parts.make_dataset", "parts.Logger"],
)  # fmt: skip
def test_what_a_config_may_name(parts, path):
    assert callable(get_component(path))
    assert not [p for p in check(load_text(f"x:\n  _component_: {path}\n")) if "allow-component" in p.message]


def test_a_file_written_after_a_first_look_is_found(parts):
    with pytest.raises(ConfigError):
        get_component("later.f")
    (parts / "later.py").write_text("def f(): return 1\n")
    assert get_component("later.f")() == 1
