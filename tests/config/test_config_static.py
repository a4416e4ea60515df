"""What sources tell about a component agrees with what Python says after importing it."""

import importlib
import inspect

import pytest
from light import check_light

from torchtune.config import _static, check, instantiate, load
from torchtune.errors import ConfigError

AGREE = [
    "torch.optim.AdamW", "torch.optim.SGD", "torch.optim.Adam", "torch.optim.Adagrad",
    "torch.optim.lr_scheduler.LambdaLR",
    "torch.optim.lr_scheduler.OneCycleLR", "torch.nn.CrossEntropyLoss", "torch.nn.Linear", "torch.nn.MSELoss",
    "torch.nn.GELU", "torch.nn.Sequential", "torch.nn.NLLLoss", "torch.utils.data.DataLoader",
    "torch.utils.data.random_split", "parts.make_dataset", "parts.Checkpointer", "parts.Base", "parts.Logger",
    "parts.Options", "parts.MoreOptions", "parts.anything", "parts.count", "parts.alias", "parts.preset", "parts.Layer",
    "parts.Broken", "parts.Logger.named", "torchtune.models.llama2.llama2", "torchtune.models.llama2.llama2_7b",
    "parts.bound", "parts.bound_class", "parts.counted", "torchtune.models.llama2.lora_llama2",
    "torchtune.models.llama3.lora_llama3_8b", "torchtune.models.llama3_2.qlora_llama3_2_1b",
]  # fmt: skip


def shape(signature):
    return [(p.name, p.kind, p.default is p.empty) for p in signature.parameters.values()]


@pytest.mark.parametrize("path", AGREE)
def test_signatures_agree_with_inspect(parts, monkeypatch, path):
    monkeypatch.syspath_prepend(str(parts))
    found = _static.define(path)
    module, _, names = path.rpartition(".")
    if path.count(".") == 2 and path.startswith("parts.Logger"):
        module, names = "parts", "Logger.named"
    target = __import__(module, fromlist=["x"])
    for name in names.split("."):
        target = getattr(target, name)
    assert shape(found.signature) == shape(inspect.signature(target))
    if inspect.isclass(target):
        assert (found.module, found.kind) == (target.__module__, "class")


def test_every_optimizer_and_loss_of_torch_agrees(parts):
    import torch

    wrong = []
    for module in (torch.optim, torch.nn):
        for name, target in vars(module).items():
            if not inspect.isclass(target) or name.startswith("_") or not issubclass(
                target, torch.optim.Optimizer | torch.nn.Module
            ):  # fmt: skip
                continue
            found = _static.define(f"{module.__name__}.{name}")
            if found is None or found.kind != "class":
                wrong.append(name)
            elif found.signature is not None and shape(found.signature) != shape(inspect.signature(target)):
                wrong.append(name)
    # these two are wrapped by a deprecation that hides their arguments from inspect
    assert sorted(wrong) == ["Container", "NLLLoss2d"]


SOURCE = """
from typing import TYPE_CHECKING, NamedTuple, Protocol, overload
from enum import Enum
import functools
try:
    from parts import make_dataset as build
except ImportError:
    build = None
if TYPE_CHECKING:
    from parts import Options
def deco(f): return lambda *a, **k: f(*a, **k)
@deco
def decorated(a): ...
@functools.lru_cache
def cached(a): ...
@overload
def over(a: int): ...
@overload
def over(a: str): ...
def over(a, b=1): ...
class Colour(Enum):
    RED = 1
class Pair(NamedTuple):
    a: int
class Meta(type): pass
class Odd(metaclass=Meta): ...
class Like(Protocol):
    def __init__(self, z): ...
class Child(Like): ...
class Unknown(deco(Like)): ...
first = second = build
made = functools.partial(build, "t", packed=True)
twice = functools.partial(made, source=1)
unpacked = functools.partial(build, *("t",))
value = make()
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("build", ["tokenizer", "source", "packed", "transform"]), ("Options", ["width", "depth", "names"]),
        ("decorated", None), ("cached", ["a"]), ("over", ["a", "b"]), ("Colour", None), ("Pair", None), ("Odd", None),
        ("Like", ["z"]), ("Child", ["z"]), ("Unknown", None),
        ("second", ["tokenizer", "source", "packed", "transform"]),
        ("made", ["source", "packed", "transform"]), ("twice", ["source", "packed", "transform"]), ("value", None),
        ("unpacked", None),
    ],
)  # fmt: skip
def test_when_the_source_does_not_tell_nothing_is_claimed(parts, name, expected):
    (parts / "odd.py").write_text(SOURCE)
    found = _static.define(f"odd.{name}")
    names = None if found.signature is None else list(found.signature.parameters)
    assert names == expected


def test_modules_that_cannot_be_read_give_no_answer(parts):
    (parts / "broken.py").write_text("def f(:\n")
    (parts / "loops.py").write_text("for n in 'ab':\n    globals()[n] = int\n")
    (parts / "circle.py").write_text("from circle2 import a\n")
    (parts / "circle2.py").write_text("from circle import a\n")
    (parts / "bare").mkdir()
    (parts / "bare" / "inner.py").write_text("def f(x): ...\n")
    for path in ("broken.f", "loops.a", "circle.a", "no_such_package.f", "_ssl.x"):
        assert _static.define(path) is None
    assert list(_static.define("bare.inner.f").signature.parameters) == ["x"]


def test_absent_names_come_with_those_that_are_there(parts):
    with pytest.raises(_static.Absent) as e:
        _static.define("parts.make_datset")
    assert e.value.module == "parts" and "make_dataset" in e.value.names
    with pytest.raises(_static.Absent):
        _static.define("torchtune.modles.llama2.llama2_7b")


def test_load_and_check_import_no_torch_and_take_little_time(parts):
    script = """
import sys
from torchtune import config
from torchtune.config.schema import FinetuneConfig
problems = config.check(config.load("config.yaml", ["batch_size=4", "optimizer=torch.optim.SGD"]), FinetuneConfig)
config.to_yaml(config.load("config.yaml").cfg)
assert not problems, problems
assert "parts" not in sys.modules
"""
    check_light(script, cwd=parts)


def test_text_where_a_number_is_wanted_is_a_fault(tmp_path):
    import torch

    path = tmp_path / "c.yaml"
    path.write_text("optimizer:\n  _component_: torch.optim.AdamW\n  lr: 1e-3x\n  weight_decay: 0.1\n")
    found = check(load(path))
    assert [str(fault).removeprefix(f"{path}:") for fault in found] == [
        "3: optimizer.lr must be a number, found '1e-3x'"
    ]
    with pytest.raises(ConfigError, match="lr must be a number"):
        instantiate({"_component_": "torch.optim.AdamW", "lr": "1e-3x"}, [torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize("family", ["llama2", "llama3", "llama3_1", "llama3_2", "llama3_3", "code_llama2"])
def test_builders_with_adapters_take_what_python_says(family):
    module = importlib.import_module(f"torchtune.models.{family}")
    names = [name for name in module.__all__ if "lora_" in name]
    assert names
    for name in names:
        actual = inspect.signature(getattr(module, name)).parameters.values()
        read = _static.define(f"torchtune.models.{family}.{name}").signature.parameters.values()
        assert [(p.name, p.kind, p.default is p.empty) for p in read] == [
            (p.name, p.kind, p.default is p.empty) for p in actual
        ]
