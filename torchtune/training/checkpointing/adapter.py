"""Files of adapters: PEFT's folder, and a ``.pt`` file with the model's own names."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.models._peft import (
    check_method,
    is_peft,
    peft_config,
    peft_reads,
    peft_writes,
    spec_of_peft,
    trains_tied_embedding,
)
from torchtune.models._peft_stacks import (
    Heights,
    Parts,
    has_stacks,
    spec_of_parts,
    stack,
    unstack,
    without_stacks,
)
from torchtune.models._tensor_forms import Fetch, Read
from torchtune.models._weights import EMBEDDING, OUTPUT, WeightMap
from torchtune.modules.peft import AdapterSpec
from torchtune.training.checkpointing._atomic import is_checkpoint
from torchtune.training.checkpointing._io import FileRecord, read_json, write_json
from torchtune.training.checkpointing._safetensors import Info, SafetensorsFile, write_safetensors
from torchtune.training.checkpointing._source import open_file
from torchtune.training.checkpointing._torch_file import TorchFile

ADAPTER_FILE = "adapter_model.pt"
"""The tensors by the model's own names; as torchtune calls it."""

ADAPTER_FOLDER = "adapter"
"""Where PEFT's files go in a folder of merged weights: at its top, transformers would apply them to these once more."""

_CONFIG, _SAFE, _BIN = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
# In the header of the safetensors file, where PEFT ignores them.
_BASE_KEY, _PARTS_KEY = "torchtune.base", "torchtune.parts"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedAdapter:
    """The adapters in a file, by the model's names.

    Args:
        tensors: each is read when it is asked for.
        infos: their shapes.
        spec: None when no config lies beside the tensors.
        base: the fingerprint of the weights that they were trained on; None when the file does not say.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    infos: Mapping[str, tuple[int, ...]]
    spec: AdapterSpec | None = None
    base: str | None = None


class _Tensors(Mapping[str, Tensor]):
    """Tensors that are read from an open file, one at a time."""

    def __init__(self, reads: list[Read], read: Fetch) -> None:
        self._reads, self._read = {r.native: r for r in reads}, read

    def __getitem__(self, name: str) -> Tensor:
        found = self._reads[name]
        return found.make(self._read)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reads)

    def __len__(self) -> int:
        return len(self._reads)


def base_name(folder: Path) -> str:
    """What PEFT's users load a base by: its name on the Hub while it is as ``tune download`` left it, else its path.

    Args:
        folder: of the base; Meta's files are in ``original`` of a download.
    """
    download = folder.parent if folder.name == "original" else folder
    try:
        found = {} if is_checkpoint(folder) else read_json(download / "original_repo_id.json")
    except CheckpointError:
        found = {}
    name = found.get("repo_id") if isinstance(found, dict) else None
    # Kaggle's handles have more parts, and nobody loads by them.
    return name if isinstance(name, str) and name.count("/") <= 1 else str(folder.resolve())


@dataclass(frozen=True)
class PeftForm:
    """Adapters in PEFT's format: what goes into its two files.

    Args:
        parts: of which adapters of ours those of a layer are made that is several here.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    parts: Parts = field(default_factory=dict)


def peft_form(
    tensors: Mapping[str, Tensor],
    spec: AdapterSpec | None,
    names: WeightMap | None,
    *,
    base: str,
    head_dim: int | None,
    heights: Heights = dict,
) -> PeftForm:
    """A model's adapters in PEFT's format.

    Args:
        tensors: by our names, whole.
        names: the names that the base has in transformers.
        base: what PEFT's users load the base by.
        heights: see :mod:`torchtune.models._peft_stacks`.

    Raises:
        CheckpointError: PEFT has nothing like it, or what it would need (None) is not known.
    """
    if names is None:
        raise CheckpointError("the family of the model is not known; set model_type in the checkpointer")
    if spec is None or head_dim is None:
        raise CheckpointError(f"{'adapter_config' if spec is None else 'the size of an attention head'} is not known")
    parts: Parts = {}
    if has_stacks(names):
        tensors, spec, parts = stack(tensors, spec, names, heights)
        names = without_stacks(names)
    config = peft_config(spec, names, base)
    if trains_tied_embedding(spec):  # PEFT looks for a copy of its own in each of the two places
        tensors = {**tensors, OUTPUT: tensors[EMBEDDING]}
    writes = peft_writes(names, tensors, head_dim=head_dim)
    return PeftForm(config, {w.foreign: w.finish([tensors[n] for n in w.natives]) for w in writes}, parts)


def write_peft(folder: Path, form: PeftForm, base: str | None) -> dict[str, FileRecord]:
    """Write PEFT's two files into a folder; gives their records.

    Args:
        base: the fingerprint of the base's weights.
    """
    infos = {name: Info(tuple(tensor.shape), tensor.dtype) for name, tensor in form.tensors.items()}
    metadata = {} if base is None else {_BASE_KEY: base}
    metadata |= {_PARTS_KEY: json.dumps(form.parts)} if form.parts else {}
    return {
        _CONFIG: write_json(folder / _CONFIG, form.config),
        _SAFE: write_safetensors(folder / _SAFE, infos, form.tensors.items(), metadata),
    }


def find_adapter(source: str | Path, checkpoint_dir: Path) -> Path:
    """The file with the tensors of an adapter.

    Args:
        source: such a file, or a folder: PEFT's, or one that a recipe has written.

    Raises:
        CheckpointError: there is none.
    """
    given = Path(source).expanduser()
    places = list(dict.fromkeys([checkpoint_dir / given, Path.cwd() / given]))
    for place in places:
        inside = (place / name for name in (_SAFE, _BIN, f"{ADAPTER_FOLDER}/{_SAFE}", ADAPTER_FILE))
        if found := next((path for path in (place, *inside) if path.is_file()), None):
            return found
    raise CheckpointError(
        f"there is no adapter at {' or '.join(map(str, places))}: expected {_SAFE}, {_BIN} or {ADAPTER_FILE}, or a "
        "folder with one of them"
    )


def read_adapter(
    path: Path, names: WeightMap | None, *, head_dim: int, base: str, heights: Heights = dict
) -> LoadedAdapter:
    """The adapters in a file that has PEFT's names or ours.

    Args:
        names: the names that the base has in transformers; None when they are not known.
        base: what the base here is loaded by, to be compared with what the config says.
        heights: see :mod:`torchtune.models._peft_stacks`.

    Raises:
        CheckpointError: the file cannot be read, or it holds something else than adapters of linear layers.
    """
    file, config_path = open_file(path), _beside(path)
    found = {name: info.shape for name, info in file.infos.items()}
    config = None if config_path is None or names is None else _read_config(config_path)
    in_peft = is_peft(found)
    if in_peft:
        _check_readable(path, config_path, names)
        with _about(path):
            reads = _peft_reads(found, without_stacks(names), config, head_dim)
    else:
        reads = [Read(name, name) for name in found]
    shapes = {r.native: r.shape(found[r.foreign]) for r in reads}
    metadata = _metadata(file, config_path)
    parts = json.loads(metadata.get(_PARTS_KEY, "{}"))
    with _about(config_path or path):
        spec = None
        if in_peft:
            spec = spec_of_peft(config, without_stacks(names), shapes)
            reads, spec = unstack(reads, shapes, spec, names, heights, parts)
            shapes = {r.native: r.shape(found[r.foreign]) for r in reads}
        elif config is not None:
            spec = spec_of_parts(config, names, shapes, parts)
    fingerprint = metadata.get(_BASE_KEY)
    if fingerprint is None and config and (theirs := config.get("base_model_name_or_path")) not in (None, base):
        logger.warning("The adapter in %s was trained on %s; here it goes on %s.", path, theirs, base)
    return LoadedAdapter(path, _Tensors(reads, file.read), shapes, spec, fingerprint)


def _beside(path: Path) -> Path | None:
    places = (path.with_name(_CONFIG), path.parent / ADAPTER_FOLDER / _CONFIG)
    return next((place for place in places if place.is_file()), None)


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a table of settings")
    with _about(path):
        check_method(config)
    return config


def _check_readable(path: Path, config_path: Path | None, names: WeightMap | None) -> None:
    if config_path is None:
        raise CheckpointError(f"{path} has PEFT's names of tensors, but no {_CONFIG} lies beside it; copy that too")
    if names is None:
        raise CheckpointError(
            f"{path} has PEFT's names of tensors; set model_type in the checkpointer, so that they can be translated"
        )


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Tell errors inside with the file that they are about."""
    try:
        yield
    except CheckpointError as e:
        raise CheckpointError(f"cannot use the adapter in {path}: {e}") from e


def _peft_reads(
    found: Mapping[str, tuple[int, ...]], names: WeightMap, config: Mapping[str, Any], head_dim: int
) -> list[Read]:
    reads = peft_reads(names, found, head_dim=head_dim, config=config)
    if "use_dora" not in config and any(r.native.endswith(".magnitude") for r in reads):
        # torchtune's own config does not say DoRA, and its magnitudes of q and k lack PEFT's order of rows.
        raise CheckpointError("torchtune wrote it, and PEFT reads its magnitudes wrongly; name the .pt file beside it")
    return [r for r in reads if r.native != OUTPUT] if config.get("ensure_weight_tying") else reads


def _metadata(file: SafetensorsFile | TorchFile, config_path: Path | None) -> Mapping[str, str]:
    """Only PEFT's file has room for it, so a ``.pt`` file asks the one that was written with it."""
    if not isinstance(file, SafetensorsFile) and config_path and config_path.with_name(_SAFE).is_file():
        file = open_file(config_path.with_name(_SAFE))
    return file.metadata if isinstance(file, SafetensorsFile) else {}
