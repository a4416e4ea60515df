"""Which files of a folder belong to its model, and whether they are whole and hold no secret."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import yaml

from torchtune.config import redact, redact_text
from torchtune.errors import CheckpointError, ConfigError

Kind = Literal["model", "adapter", "gguf", "weights"]

CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
_MANIFEST = "MANIFEST.json"
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".gguf")
_NATIVE_ADAPTER = "adapter_model.pt"
# What a run, an evaluation or a trainer of somebody else leaves in a folder beside its model.
_NOT_THE_MODEL = re.compile(
    rf"^({re.escape(_MANIFEST)}|metrics\.jsonl|run_state\.json|torchtune_config\.yaml|recipe_state(\.pt)?|logs|wandb|"
    r"runs|profiling_outputs|__pycache__|(epoch|step)_\d+|checkpoint-\d+|log_\d+\.txt|.*\.log|events\.out\.tfevents.*|"
    r"results_\d.*\.json|samples_.*\.jsonl|(optimizer|scheduler|scaler|rng_state|training_args).*\.(pt|pth|bin)|"
    r"trainer_state\.json|verify\.json)$"
)
_EDITABLE = (".json", ".md", ".txt", ".jinja", ".yaml", ".yml", ".py")
_LARGEST_TEXT = 5 * 2**20  # what is larger was written by no person
_COMMIT = re.compile(r"(?<![0-9a-fA-F])[0-9a-f]{40}(?![0-9a-fA-F])")
_THREADS = min(8, os.cpu_count() or 1)
_AGAIN = "copy the folder anew, or name another checkpoint"


@dataclass(frozen=True)
class Selection:
    """What goes to the Hub.

    Args:
        files: path in the repository -> the file.
        left_out: name -> why.
    """

    kind: Kind
    files: Mapping[str, Path]
    left_out: Mapping[str, str]


def select(folder: Path, ignore_patterns: Iterable[str] = (), adapter_pt: bool = False) -> Selection:
    """The files of the model in a folder; none is opened yet.

    Args:
        adapter_pt: take ``adapter_model.pt`` too where PEFT's file of the same adapter is there.

    Raises:
        ConfigError: there is no such folder, or no model in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is {'a file' if folder.exists() else 'not there'}; name a folder with a model")
    found = dict(_walk(folder, folder, tuple(ignore_patterns)))
    names = [name for name, reason in found.items() if reason is None]
    left_out = {name: reason for name, reason in found.items() if reason is not None}
    peft = {"adapter_model.safetensors", "adapter/adapter_model.safetensors"} & {*names}
    if _NATIVE_ADAPTER in names and peft and not adapter_pt:
        names.remove(_NATIVE_ADAPTER)
        left_out[_NATIVE_ADAPTER] = f"the same adapter as {min(peft)}; --adapter-pt takes it along"
    kind = _kind(folder, names)
    return Selection(kind, {_place(name, kind): folder / name for name in names}, left_out)


def _walk(folder: Path, top: Path, ignore_patterns: tuple[str, ...]) -> Iterator[tuple[str, str | None]]:
    for path in sorted(folder.iterdir()):
        name = path.relative_to(top).as_posix()
        shown = f"{name}/" if path.is_dir() else name
        if path.name.startswith("."):
            yield shown, "hidden"
        elif _NOT_THE_MODEL.match(path.name):
            yield shown, "not part of the model"
        elif any(fnmatch(shown, f"{p}*" if p.endswith("/") else p) for p in ignore_patterns):
            yield shown, "--ignore-patterns"
        elif path.is_dir():
            yield from _walk(path, top, ignore_patterns)
        else:
            yield name, None if path.is_file() else "no file"


def _kind(folder: Path, names: list[str]) -> Kind:
    top = [name for name in names if "/" not in name and name.endswith(_WEIGHTS)]
    weights = [name for name in top if not name.startswith("adapter_model.")]
    if "config.json" in names and any(name.endswith((".safetensors", ".bin")) for name in weights):
        return "model"
    if weights:
        return "gguf" if any(name.endswith(".gguf") for name in weights) else "weights"
    if ADAPTER_CONFIG in names and top:
        return "adapter"
    inside = sorted(path.name for path in folder.iterdir() if re.match(r"(epoch|step)_\d+$", path.name))
    hint = f" Its checkpoints are {', '.join(inside)}: name one of them." if inside else ""
    raise ConfigError(f"{folder} holds no model: no weights and no adapter.{hint}")


def _place(name: str, kind: Kind) -> str:
    """At the top of a model transformers would apply an adapter to weights that contain it."""
    beside = kind == "model" and re.match(r"adapter_(config\.json|model\.(safetensors|bin))$", name)
    return f"adapter/{name}" if beside else name


def check(folder: Path, selection: Selection) -> tuple[str, ...]:
    """Refuse files that are damaged or hold a secret; gives the names of those that changed without harm.

    Raises:
        CheckpointError: a file is missing, cut off, or not what was written.
        ConfigError: a text holds what looks like a credential.
    """
    if folder.name.startswith((".tmp-", ".old-", ".trash-")):
        raise CheckpointError(f"{folder} is what an interrupted save left; name the folder of a finished one")
    names = [path.relative_to(folder).as_posix() for path in selection.files.values()]
    changed = _compare(folder, names) if (folder / _MANIFEST).is_file() else _look(folder, names)
    for name, path in selection.files.items():
        if name != CARD and holds_secret(path):
            raise ConfigError(
                f"{path} holds what looks like a credential, and whoever sees the repository would see it. Remove it "
                f"from the file, or leave the file out: --ignore-patterns {path.relative_to(folder).as_posix()}"
            )
    return changed


def _compare(folder: Path, names: list[str]) -> tuple[str, ...]:
    """Against the list that was made with the folder. People edit the texts in it, and take out the adapter."""
    try:
        listed = read_object(folder / _MANIFEST)["files"]
        wanted = {name: (int(r["bytes"]), str(r["sha256"])) for name, r in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{folder / _MANIFEST} is damaged, so the folder cannot be checked; {_AGAIN}") from None
    wanted = {name: record for name, record in wanted.items() if name in names or not (folder / name).exists()}
    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(wanted, pool.map(lambda name: _record(folder / name), wanted)))
    changed = [name for name in wanted if found[name] != wanted[name]]
    for name in changed:
        if found[name] is None and not name.startswith("adapter"):
            raise CheckpointError(f"{folder / name} is missing since the folder was made; {_AGAIN}")
        if found[name] is not None and not name.endswith(_EDITABLE):
            raise CheckpointError(f"{folder / name} is not as it was written (size or sha256 differs); {_AGAIN}")
    return tuple(changed)


def _record(path: Path) -> tuple[int, str] | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _look(folder: Path, names: list[str]) -> tuple[str, ...]:
    """What a folder tells of itself without such a list: an index names its shards, safetensors their length."""
    for name in names:
        if name.endswith(".index.json"):
            try:
                shards = {*read_object(folder / name)["weight_map"].values()}
            except (ValueError, KeyError, AttributeError):
                raise CheckpointError(f"{folder / name} cannot be read; {_AGAIN}") from None
            if absent := sorted(shard for shard in shards if not (folder / name).with_name(shard).is_file()):
                raise CheckpointError(f"{folder} lacks {', '.join(absent[:3])}, which {name} names; {_AGAIN}")
        if name.endswith(".safetensors") and not _is_whole(folder / name):
            raise CheckpointError(f"{folder / name} is cut off or no safetensors file; {_AGAIN}")
    return ()


def _is_whole(path: Path) -> bool:
    """Format: https://huggingface.co/docs/safetensors/index#format."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 8 + length <= size else b""
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        return 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0) == size
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def holds_secret(path: Path) -> bool:
    """Whether a text has what looks like a token, a key or a password."""
    if path.suffix in _WEIGHTS or path.stat().st_size > _LARGEST_TEXT:
        return False
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError:  # not a text
        return False
    if path.suffix in (".yaml", ".yml"):
        with suppress(yaml.YAMLError):
            value = yaml.safe_load(text)
            return redact(value) != value
    text = _COMMIT.sub("", text)  # in such files it is the version of a model, and no key
    return redact_text(text) != text


def read_object(path: Path) -> Any:
    """The value in a JSON file; ValueError if it is none."""
    return json.loads(path.read_text(encoding="utf-8"))
