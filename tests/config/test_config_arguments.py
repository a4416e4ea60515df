"""Arguments of components: which names are taken, also of those that are handed on, and which values."""

import importlib
import inspect

import pytest

from torchtune.cli import catalog
from torchtune.config import _static, check, instantiate, load
from torchtune.config._annotations import signature_of, value_faults
from torchtune.config.schema import FinetuneConfig
from torchtune.errors import ConfigError

DEMO = catalog.find_config("demo").path
FUNCTION = ". A config cannot hold one: write a builder in a Python file of your own that does, see docs/data.md"


def faults(*words):
    return [str(fault) for fault in check(load(DEMO, words), FinetuneConfig)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset.train_on_input=maybe"], "dataset.train_on_input must be True or False, found 'maybe'"),
        (
            ["dataset.train_on_input='False'"],
            "dataset.train_on_input must be True or False, found 'False' (text; leave out the quotation marks)",
        ),
        (["dataset.train_on_input=1"], "dataset.train_on_input must be True or False, found 1"),
        (["dataset.column_map=5"], "dataset.column_map must be a mapping or null, found 5"),
        (["dataset.streaming=yess"], "dataset.streaming must be True or False, found 'yess'"),
        (["dataset.streaming=True", "dataset.shuffle_buffer=x"], "must be a whole number or null, found 'x'"),
        (["dataset=text_completion", "dataset.add_eos=nope"], "dataset.add_eos must be True or False, found 'nope'"),
        (["dataset=wikitext", "dataset.add_eos=nope"], "dataset.add_eos must be True or False, found 'nope'"),
        (["dataset.packed=3"], "dataset.packed must be True or False or text, found 3"),
        (["dataset.masking_strategy=5"], "dataset.masking_strategy must be text or a list or null, found 5"),
        (["dataset.filter_fn=my_rows.is_short"], "must be a function or null, found 'my_rows.is_short'" + FUNCTION),
        (["dataset.data_files=7"], "dataset.data_files must be text or a list or a mapping or null, found 7"),
        (["tokenizer.max_seq_len=abc"], "tokenizer.max_seq_len must be a whole number or null, found 'abc'"),
        (["tokenizer.max_seq_len=1.5"], "tokenizer.max_seq_len must be a whole number or null, found 1.5"),
        (["tokenizer.max_seq_len=0"], "max_seq_len must be a whole number of at least 1 or null, found 0"),
        (["tokenizer.max_seq_len=-5"], "max_seq_len must be a whole number of at least 1 or null, found -5"),
        (["dataset=text_completion", "dataset.max_seq_len=0"], "a whole number of at least 1 or null, found 0"),
        (["tokenizer.tokenizer_json_path=5"], "tokenizer.tokenizer_json_path must be text, found 5"),
        (["optimizer.lr=1e-3x"], "optimizer.lr must be a number, found '1e-3x'"),
        (["optimizer.lr=high"], "optimizer.lr must be a number, found 'high'"),
        (["optimizer.betas=5"], "optimizer.betas must be a list, found 5"),
        (["optimizer.fused=perhaps"], "optimizer.fused must be True or False or null, found 'perhaps'"),
        (["model.num_layers=2.5"], "model.num_layers must be a whole number, found 2.5"),
        (["checkpointer.checkpoint_dir=[a]"], "checkpointer.checkpoint_dir must be text, found ['a']"),
    ],
)
def test_values_are_what_the_annotations_say(words, message):
    (found,) = faults(*words)
    assert found.startswith("command line: ") and message in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset.packd=True"], "torchtune.datasets.alpaca_dataset does not take 'packd'. Did you mean 'packed'?"),
        (["dataset.colum_map={a: b}"], "Did you mean 'column_map'?"),
        (["dataset.column={a: b}"], "Did you mean 'column_map'?"),
        (["dataset.delimitr=x"], "Did you mean 'delimiter'?"),
        (["dataset.steaming=True"], "Did you mean 'streaming'?"),
        (["dataset=wikitext", "dataset.colum=page"], "Did you mean 'column'?"),
        (["dataset=samsum", "dataset.train_on_imput=True"], "Did you mean 'train_on_input'?"),
        (["dataset=slimorca", "dataset.masking_stategy=x"], "Did you mean 'masking_strategy'?"),
        (["dataset=stack_exchange_paired", "dataset.splt=x"], "Did you mean 'split'?"),
        (["dataset=llama_recipes.datasets.samsum_dataset", "dataset.pack=True"], "Did you mean 'packed'?"),
        (["dataset=torchtune.datasets.SFTDataset", "dataset.fiels=x"], "Did you mean 'field'?"),
    ],
)
def test_a_misspelt_argument_of_a_dataset_is_refused(words, message):
    found = [fault for fault in faults(*words) if "does not take" in fault]
    assert len(found) == 1 and found[0].startswith("command line: dataset: ") and found[0].endswith(message)


@pytest.mark.parametrize(
    "words",
    [
        ["dataset.packed=greedy", "dataset.split='train[:95%]'", "dataset.masking_strategy=[assistant]"],
        ["dataset.column_map={input: null}", "dataset.data_files=[a.csv, b.csv]", "dataset.delimiter=';'"],
        ["dataset.source=text", "dataset.data_files={train: a.txt}", "dataset.sample_by=paragraph"],
        ["dataset.source=org/name", "dataset.name=main", "dataset.revision=v1", "dataset.token=True"],
        ["dataset.streaming=True", "dataset.shuffle_buffer=100", "dataset.field=rows", "max_steps=1"],
        ["dataset=wikitext", "dataset.add_eos=False", "dataset.column=page"],
        ["dataset=cnn_dailymail_articles", "dataset.column=highlights"],
        ["dataset=slimorca", "dataset.masking_strategy=train_on_last"],
        ["dataset.filter_fn=null", "dataset.filter_kwargs={with_indices: True}", "tokenizer.max_seq_len=1"],
        ["dataset.trust_remote_code=True", "dataset.packed=null"],
        ["optimizer.lr=1e-4", "optimizer.lr=1", "optimizer.betas=[0.9, 0.95]", "optimizer.eps=1"],
    ],
)
def test_what_works_is_not_refused(words):
    assert faults(*words) == []


def test_all_faults_are_listed():
    found = faults("dataset.packd=True", "tokenizer.max_seq_len=abc", "dataset.train_on_input=maybe")
    assert len(found) == 3


@pytest.mark.parametrize(
    ("word", "dropped"),
    [
        ("text_completion", {"train_on_input"}),
        ("wikitext", {"train_on_input"}),
        ("cnn_dailymail_articles", {"train_on_input", "packed"}),
        ("preference", {"packed"}),
        ("samsum", set()),
    ],
)
def test_a_dataset_in_the_place_of_another_keeps_what_it_takes(word, dropped):
    loaded = load(DEMO, [f"dataset={word}"])
    path = f"torchtune.datasets.{word}_dataset"
    said = {f"dataset.{name}: dropped, because {path} does not take it" for name in dropped}
    assert said == {note for note in loaded.notes if "dropped" in note}
    assert {"train_on_input", "packed", "source", "data_files"} - loaded.cfg.dataset.keys() == dropped


def test_what_only_dialogues_have_is_dropped(tmp_path):
    node = "{_component_: torchtune.datasets.chat_dataset, source: a, conversation_column: c, packed: True}"
    (tmp_path / "chat.yaml").write_text(f"dataset: {node}\n")
    loaded = load(tmp_path / "chat.yaml", ["dataset=instruct"])
    assert loaded.cfg.dataset.keys() == {"_component_", "source", "packed"}
    assert any(note.startswith("dataset.conversation_column: dropped") for note in loaded.notes)


OWN = """
from __future__ import annotations
import typing as t
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Optional, TypedDict, Unpack, Annotated

class More(TypedDict, total=False):
    size: int

class Most(More):
    name: "str | None"

class Thing: ...

@dataclass
class Kept:
    width: int
    depth: int = None
    names: list = field(default=None)
    flag: bool = field(default_factory=bool)

def free(tokenizer, **load_dataset_kwargs: Any): ...
def handing(tokenizer, *, size: float = 1.0, **more: Unpack[Most]): ...
def lost(tokenizer, **more: Unpack[Elsewhere]): ...
def typed(
    flag: bool, count: int, share: float, word: str, kind: Literal["a", 2], many: list[int], table: dict[str, int],
    maybe: Optional[int], either: t.Union[bool, str], note: Annotated[int, "x"], call: Callable[[int], str] = None,
): ...
def open_(
    one: Thing | None, two: Any, three: unheard.Of, four: bool = "auto", five: int = 2.5, six: any = None,
    seven: Optional = None, eight: Literal | None = None, nine=3, ten: t.NoSuch[int] = 0, eleven: str = None,
): ...
def loose(limit: Limit = 10, text: str = 0, off: bool = False, either: bool | str = False, number=-1): ...

Limit = t.Union[int, str]
"""


@pytest.fixture
def own(parts):
    (parts / "own.py").write_text(OWN)
    return parts


def both(name):
    """The signature as the sources tell it, and as Python does."""
    return _static.define(f"own.{name}").signature, signature_of(getattr(importlib.import_module("own"), name))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("flag", "yes"), ("flag", 0), ("flag", None), ("count", True), ("count", 1.0), ("count", "1"), ("share", "a"),
        ("share", True), ("word", 1), ("word", []), ("kind", "b"), ("kind", True), ("many", "a"), ("many", {}),
        ("table", []), ("table", "a"), ("maybe", "None"), ("either", 1), ("note", "x"), ("call", "f"), ("call", {}),
    ],
)  # fmt: skip
def test_what_is_certainly_wrong(own, monkeypatch, name, wrong):
    monkeypatch.syspath_prepend(str(own))
    for signature in both("typed"):
        (fault,) = value_faults(signature, {name: wrong}, "at")
        assert fault[0] == name and fault[1].startswith(f"at.{name} must be ")


@pytest.mark.parametrize(
    ("function", "values"),
    [
        ("typed", {"flag": True, "count": 1, "share": 1, "word": "", "kind": 2, "many": [], "table": {"a": "b"}}),
        (
            "typed",
            {"maybe": None, "either": "x", "note": 3, "call": None, "flag": "${x}", "word": {"_component_": "a.b"}},
        ),
        ("open_", dict.fromkeys(("one", "two", "three", "four", "six", "seven", "eight"), "x")),
        ("open_", {"four": 1, "five": 1.5, "nine": 0.5, "ten": [], "eleven": None}),
        ("Kept", {"width": 1, "depth": None, "names": None, "flag": True}),
        ("loose", {"limit": "all", "text": "5 or all", "off": None, "either": None, "number": "all"}),
        ("free", {"load_dataset_kwargs": 3, "tokenizer": 1}),
    ],
)
def test_what_may_be_right_is_left_alone(own, monkeypatch, function, values):
    monkeypatch.syspath_prepend(str(own))
    for signature in both(function):
        assert value_faults(signature, values) == []


@pytest.mark.parametrize(
    ("name", "taken"), [("free", None), ("handing", ["tokenizer", "size", "name"]), ("lost", None)]
)
def test_what_is_handed_on_is_named_where_that_is_certain(own, monkeypatch, name, taken):
    monkeypatch.syspath_prepend(str(own))
    for signature in both(name):
        anything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        assert anything if taken is None else list(signature.parameters) == taken


def test_a_class_that_extends_itself_is_not_followed(parts):
    (parts / "own.py").write_text("class Unending(Unending):\n    size: int\ndef f(**more: Unpack[Unending]): ...\n")
    assert list(_static.define("own.f").signature.parameters) == ["more"]
    assert _static.define("own.Unending").signature is None


def test_builders_of_ones_own_take_whatever_they_take(own):
    assert faults("dataset=own.free", "dataset.anything=1", "~dataset.source") == []
    assert load(DEMO, ["dataset=own.free"]).cfg.dataset.train_on_input is False


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"packd": True}, "alpaca_dataset does not take 'packd'. Did you mean 'packed'?"),
        ({"train_on_input": "maybe"}, "train_on_input must be True or False, found 'maybe'"),
    ],
)
def test_what_is_made_without_a_recipe_is_checked_as_well(node, message):
    with pytest.raises(ConfigError, match=message):
        instantiate({"_component_": "torchtune.datasets.alpaca_dataset", "source": "no.json", **node}, None)


def test_sources_and_python_agree_about_every_dataset():
    from torchtune import datasets

    for name in datasets.__all__:
        if not name.endswith("_dataset") and name not in ("SFTDataset", "PreferenceDataset", "TextCompletionDataset"):
            continue
        read, seen = _static.define(f"torchtune.datasets.{name}").signature, signature_of(getattr(datasets, name))
        assert [(p.name, p.kind) for p in read.parameters.values()] == [
            (p.name, p.kind) for p in seen.parameters.values()
        ], name
        assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in read.parameters.values()), name
