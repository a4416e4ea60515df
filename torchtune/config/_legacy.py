"""The flat configs of torchtune's first release -> components; every rewriting leaves a note."""

from collections.abc import Callable
from typing import Any

from torchtune.config import _names
from torchtune.config._keys import component_keys
from torchtune.config._problem import COMMAND_LINE, Place, Problem, problem
from torchtune.config.schema import FinetuneConfig
from torchtune.errors import ConfigError

Data = dict[str, Any]

# flat key -> the component and the argument that it became
_ARGUMENTS: dict[str, tuple[str, str]] = {
    "lr": ("optimizer", "lr"),
    "tokenizer_checkpoint": ("tokenizer", "path"),
    "max_seq_len": ("tokenizer", "max_seq_len"),
    "train_on_input": ("dataset", "train_on_input"),
    "model_checkpoint": ("checkpointer", "checkpoint_dir"),
}
# What a flat key stands for when its component is not there at all.
_MADE: dict[str, Data] = {
    "optimizer": {"_component_": "torch.optim.AdamW"},
    "checkpointer": {
        "_component_": "torchtune.training.checkpointing.checkpointer_for",
        "output_dir": "${output_dir}",
    },
}
_PROFILER = "torchtune.training.setup_torch_profiler"
_ENABLE_FSDP = "enable_fsdp: accepted, no effect: a model is sharded whenever there is more than one process"


class Normaliser:
    """Rewrites a config's plain values in place, once for the file and once more after the command line.

    ``notes`` tells what was rewritten, ``problems`` what could not be, and ``moved`` where flat keys went, so that an
    override of a flat key finds it there.
    """

    def __init__(self, data: Data, positions: dict[str, Place], free: Callable[[], set[str]]) -> None:
        self.data, self.positions, self.free = data, positions, free
        self.notes: list[str] = []
        self.problems: list[Problem] = []
        self.moved: dict[str, str] = {}

    def run(self) -> None:
        """Brings the whole config into today's shape."""
        self._slip()
        self._short_names()
        self._arguments()
        self._use_clean()
        self._profiler()
        if "enable_fsdp" in self.data:
            self.data.pop("enable_fsdp")
            self.notes.append(_ENABLE_FSDP)

    def _slip(self) -> None:
        """``_component_`` at the left margin under an empty key: it lacks its indentation."""
        if "_component_" not in self.data:
            return
        value = self.data.pop("_component_")
        place = self.positions.pop("_component_", Place(COMMAND_LINE))
        owner = self._empty_key_above(place)
        if owner is None:
            message = "_component_ stands at the left margin, under no key; indent it below the key it belongs to"
        else:
            line = self.positions[owner].line
            message = (
                f"_component_ stands at the left margin, so `{owner}:` on line {line} is empty. "
                f"Indent it by two spaces:\n    {owner}:\n      _component_: {value}"
            )
            self.data[owner] = {"_component_": value}
        self.problems.append(Problem(place.file, place.line, owner or "_component_", message))

    def _empty_key_above(self, place: Place) -> str | None:
        above = [k for k in self.data if k in self.positions and (self.positions[k].line or 0) < (place.line or 0)]
        nearest = max(above, key=lambda k: self.positions[k].line, default=None)
        return nearest if nearest is not None and self.data[nearest] is None else None

    def _short_names(self) -> None:
        components = component_keys(FinetuneConfig) & _names.ROLES.keys()
        for key, value in self.data.items():
            if key in components:
                self.data[key] = self._named(key, value)

    def _named(self, key: str, value: Any) -> Any:
        """A component, or a list of them, with a dotted path where it has a short name."""
        if isinstance(value, list):
            return [self._named(key, each) for each in value]
        if isinstance(value, str) and "${" not in value:
            return {"_component_": self._expand(key, value)}
        if isinstance(value, dict) and isinstance(short := value.get("_component_"), str):
            value["_component_"] = self._expand(key, short)
        return value

    def _expand(self, key: str, short: str) -> str:
        if "." in short or "${" in short:
            return short
        try:
            path = _names.expand(key, short)
        except ConfigError as e:
            self.problems.append(problem(key, str(e), self.positions))
            return short
        self.notes.append(f"{key}: {short} is taken as {path}")
        return path

    def _arguments(self) -> None:
        free = self.free()
        for flat, (owner, argument) in _ARGUMENTS.items():
            if flat not in self.data or flat in free:
                continue
            if self.data.get(owner) is None and owner in _MADE:
                self.data[owner] = dict(_MADE[owner])
                if flat in self.positions:
                    self.positions[owner] = self.positions[flat]
            node = self.data.get(owner)
            if isinstance(node, dict) and argument not in node:
                self._move(flat, owner, argument)

    def _move(self, flat: str, owner: str, argument: str) -> None:
        target = f"{owner}.{argument}"
        self.data[owner][argument] = self.data.pop(flat)
        if flat in self.positions:
            self.positions[target] = self.positions[flat]
        self.moved[flat] = target
        self.notes.append(f"{flat}: taken as {target}")

    def _use_clean(self) -> None:
        """``use_clean`` chose between the two Alpaca sets, which are two components now."""
        node = self.data.get("dataset")
        if "use_clean" not in self.data or not isinstance(node, dict):
            return
        alpaca, cleaned = (f"torchtune.datasets.alpaca_{s}dataset" for s in ("", "cleaned_"))
        clean = self.data["use_clean"]
        if not isinstance(clean, bool) or node.get("_component_") not in (alpaca, cleaned):
            return
        del self.data["use_clean"]
        node["_component_"] = cleaned if clean else alpaca
        self.notes.append(f"use_clean: {clean} is taken as dataset._component_: {node['_component_']}")

    def _profiler(self) -> None:
        node = self.data.get("profiler")
        if isinstance(node, dict) and "_component_" not in node:
            self.data["profiler"] = {"_component_": _PROFILER, **node}
