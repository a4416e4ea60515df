"""Configs in which every component is one whose arguments are known."""

import pytest

TEXT = """\
output_dir: /tmp/out
model:
  _component_: torch.nn.Linear
  in_features: 4
  out_features: 2
tokenizer:
  _component_: torch.nn.Identity
dataset:
  _component_: parts.make_dataset
  source: x
checkpointer:
  _component_: parts.Checkpointer
  checkpoint_dir: ${output_dir}
optimizer:
  _component_: torch.optim.AdamW
  lr: 1e-4
  fused: true
loss:
  _component_: torch.nn.CrossEntropyLoss
metric_logger:
  _component_: parts.Logger
profiler:
  _component_: parts.Logger
batch_size: 2
"""

PARTS = '''\
"""Stand-ins for components, in a file of the user's."""
import functools
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from os import system

import subprocess as sp
import torch

from torchtune.errors import CheckpointError
from torch.nn import Linear as Layer


def make_dataset(tokenizer, source, *, packed=False, transform=None):
    return (tokenizer, source, packed, transform)


def dataset_of_another_kind(tokenizer, path, split="train"):
    return (tokenizer, path, split)


class Base:
    def __init__(self, checkpoint_dir, output_dir=None, resume_from_checkpoint=False):
        self.args = (checkpoint_dir, output_dir)


class Checkpointer(Base):
    pass


class Broken(Base):
    def __init__(self, **kwargs):
        raise CheckpointError("the file is torn")


class Logger:
    def __init__(self, log_dir="."):
        self.log_dir = log_dir

    @classmethod
    def named(cls, name):
        return cls(name)

    def shout(self):
        return "!"


@dataclass
class Options:
    width: int
    depth: int = 2
    names: list = field(default_factory=list)
    hidden: int = field(default=1, init=False)


@dataclass
class MoreOptions(Options):
    extra: int = 0


def anything(**kwargs):
    return kwargs


def count(*args):
    return args


alias = make_dataset
preset = functools.partial(make_dataset, source="preset")
bound = functools.partial(dataset_of_another_kind, "tokenizer", "path")
bound_class = functools.partial(Layer, 4, bias=False)
counted = functools.partial(count, 1, 2)
run = functools.partial(os.system)
shell = sp.check_call
logger = Logger()
handle = logger.shout
anonymous = lambda x: x
number = 3
'''


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A current folder with parts.py and config.yaml; gives the folder."""
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "config.yaml").write_text(TEXT)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
