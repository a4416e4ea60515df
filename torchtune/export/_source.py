"""What is exported: a model's weights from any checkpoint, with an adapter merged on the way, or an adapter alone."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchtune.errors import CheckpointError, ConfigError
from torchtune.models import family_of
from torchtune.models._decoder import Arch
from torchtune.models._family import Family, num_classes
from torchtune.models._peft_stacks import heights_of
from torchtune.models._text_part import names_inside, text_config
from torchtune.models._weights import EMBEDDING, OUTPUT, WeightMap
from torchtune.modules import TransformerDecoder
from torchtune.modules.peft import AdapterSpec, adapter_names, adapter_spec, apply_lora
from torchtune.training.adapters import BaseWeights, merged
from torchtune.training.checkpointing import (
    Checkpointer,
    FullModelHFCheckpointer,
    LoadedAdapter,
    check_adapter,
    checkpointer_for,
)
from torchtune.training.checkpointing._files import check_is_no_run
from torchtune.training.checkpointing._io import read_json
from torchtune.training.checkpointing.adapter import ADAPTER_FOLDER, base_name, find_adapter, read_adapter
from torchtune.training.distributed import World
from torchtune.training.model import base_tensors, fill, load_model, meta_init

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Source:
    """A model to export.

    Args:
        folder: has its ``config.json`` and, in most cases, tokenizer and licence.
        config: of ``config.json``, true of the weights.
        weights: each tensor once, by our names, read one at a time.
        saved: name -> (shape, dtype) in the order of ``weights``.
        adapter: what lies above the weights; None when it is merged, or there is none.
    """

    path: Path
    folder: Path
    config: Mapping[str, Any]
    checkpointer: Checkpointer
    weights: Callable[[], Iterator[tuple[str, Tensor]]]
    adapter: LoadedAdapter | None = None

    @cached_property
    def family(self) -> Family:
        return family_of(self.config)

    @cached_property
    def arch(self) -> Arch:
        return self.family.describe(self.config)[0]

    @cached_property
    def peft_names(self) -> WeightMap:
        """The names that PEFT makes its own of: those in transformers' whole model where it reads images too."""
        whole = read_json(self.folder / "config.json")
        return self.family.hf if text_config(whole) is whole else names_inside(self.family.hf, whole["model_type"])

    @property
    def name(self) -> str:
        """What people call the model: its name on the Hub, if that is known, and the folder's."""
        record = self.folder / "original_repo_id.json"
        repo = str(read_json(record).get("repo_id", "")).rpartition("/")[2] if record.is_file() else ""
        return " ".join(dict.fromkeys(filter(None, (repo, self.path.resolve().name))))

    @property
    def head_dim(self) -> int:
        return self.arch.channels

    @cached_property
    def saved(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        return self.checkpointer.saved_as(shapes_of(self.family, self.config))

    def load(self, kept: Callable[[str, Tensor], Tensor] | None = None) -> TransformerDecoder:
        """The model in float32 on the CPU, its adapter beside the weights.

        Args:
            kept: changes each weight on the way.
        """
        weights = ((name, kept(name, tensor) if kept else tensor) for name, tensor in self.weights())
        prepare = partial(add_adapter, spec=self.adapter.spec) if self.adapter else lambda model: None
        world = World(0, 1, torch.device("cpu"))
        build = partial(self.family.build, self.config)
        model = load_model(build, lambda native: weights, world, dtype=torch.float32, prepare=prepare)
        if self.adapter:
            fill(model, self.adapter.tensors.items())
        return model.eval()


def open_source(path: Path, base: Path | None) -> Source:
    """A whole model: a checkpoint of weights, or an adapter merged into its base.

    Raises:
        CheckpointError: there is no checkpoint, or it lacks a config or a base.
    """
    if not is_adapter(path):
        return _open_weights(path, base)
    source = open_adapter(path, base)
    return replace(source, weights=partial(_merged, source), adapter=None)


def open_adapter(path: Path, base: Path | None, *, weights: bool = True) -> Source:
    """An adapter and the model that it belongs on.

    Args:
        weights: whether those of the model are needed too, and not only its config.

    Raises:
        CheckpointError: there is no adapter, or no base for it.
    """
    file = find_adapter(path.absolute(), path.absolute().parent)
    named = named_base(file)
    has_base = base is not None or bool(named and (Path(named) / "config.json").is_file())
    has_config = not weights and not has_base and (path / "config.json").is_file()
    below = _open_weights(path if has_config else base or _named_base(path, file), None)
    here = base_name(below.checkpointer.checkpoint_dir)
    heights = partial(heights_of, below.family, below.config)
    adapter = read_adapter(file, below.peft_names, head_dim=below.head_dim, base=here, heights=heights)
    if adapter.spec is None:
        raise CheckpointError(f"{file} has no {ADAPTER_CONFIG} beside it, which says its alpha; copy that too")
    return replace(below, path=path, adapter=_completed(adapter, below))


def is_adapter(path: Path) -> bool:
    """Whether a path holds an adapter and no weights that it could be merged with already."""
    if not path.is_dir():
        return path.name.startswith("adapter_")
    weights = [p.name for p in path.iterdir() if p.suffix in _WEIGHTS]
    return bool(weights) and all(name.startswith("adapter_") for name in weights)


def named_base(adapter: Path) -> str | None:
    """What the config beside an adapter's file says that its base is loaded by."""
    for place in (adapter.parent, adapter.parent / ADAPTER_FOLDER):
        if (place / ADAPTER_CONFIG).is_file():
            return read_json(place / ADAPTER_CONFIG).get("base_model_name_or_path")
    return None


def _named_base(path: Path, adapter: Path) -> Path:
    named = named_base(adapter)
    if named and Path(named).is_dir():
        return Path(named)
    reason = f"its config names {named!r}, which is no folder here" if named else "no config beside it names it"
    raise CheckpointError(
        f"{path} is an adapter, and the model below it is not known: {reason}. Give its folder with --base."
    )


def _open_weights(path: Path, base: Path | None) -> Source:
    check_is_no_run(path)
    checkpointer = checkpointer_for(path)
    folder = _config_folder(checkpointer.checkpoint_dir, base)
    config = text_config(read_json(folder / "config.json"))
    if classes := num_classes(config):
        raise CheckpointError(
            f"{path} is a classifier of {classes} classes and no language model; transformers' "
            "AutoModelForSequenceClassification reads its folder as it is"
        )
    shapes = shapes_of(family_of(config), config)
    if _has_own_output(checkpointer, config):
        config = {**config, "tie_word_embeddings": False}
        shapes = shapes_of(family_of(config), config)
    return Source(path, folder, config, checkpointer, partial(checkpointer.weights, shapes))


def _config_folder(folder: Path, base: Path | None) -> Path:
    """Where ``config.json`` is; Meta's files lie in the folder ``original`` of a download."""
    places = [folder, *([folder.parent] if folder.name == "original" else [])]
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if base is None and found is None:
        raise CheckpointError(
            f"{folder} has no config.json; name a Hugging Face folder of the model with --base, to take it from"
        )
    if base is None:
        return found
    if found == folder:
        raise ConfigError(f"{folder} has its own config.json, so there is nothing to take from --base; leave it out")
    if not (base.expanduser() / "config.json").is_file():
        raise CheckpointError(f"--base {base} has no config.json; a Hugging Face folder of the model is expected")
    return base.expanduser()


def shapes_of(family: Family, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a model without storage."""
    with meta_init(torch.float32):
        return family.build(config).state_dict()


def _has_own_output(checkpointer: Checkpointer, config: Mapping[str, Any]) -> bool:
    """Whether the output projection is one of its own though the config ties it, as training can leave it. In Hugging
    Face's layout the config says so.
    """
    family = family_of(config)
    if isinstance(checkpointer, FullModelHFCheckpointer) or not family.numbers(config).tied:
        return False
    untied = {**config, "tie_word_embeddings": False}
    try:
        weights = checkpointer.weights(shapes_of(family, untied))
    except CheckpointError:  # there is none, or the model is another one, which is told later
        return False
    found = {name: tensor for name, tensor in weights if name in (EMBEDDING, OUTPUT)}
    return not torch.equal(found[EMBEDDING], found[OUTPUT])


def add_adapter(model: TransformerDecoder, spec: AdapterSpec) -> None:
    """Give a model the adapters that a spec describes."""
    apply_lora(
        model,
        list(spec.ranks),
        rank=1,
        alpha=1,
        dropout=spec.dropout,
        use_dora=spec.use_dora,
        use_rslora=spec.use_rslora,
        rank_pattern=spec.ranks,
        alpha_pattern=spec.alphas,
        trainable={name.rpartition(".")[0] for name in spec.trained},
    )


def _adapted(source: Source, spec: AdapterSpec) -> TransformerDecoder:
    with meta_init(torch.float32):
        model = source.family.build(source.config)
        add_adapter(model, spec)
    return model


def _completed(adapter: LoadedAdapter, below: Source) -> LoadedAdapter:
    """The adapter, once it fits the model, with a spec that knows the layers without an adapter too."""
    try:
        model = _adapted(below, adapter.spec)
    except ConfigError as e:
        raise CheckpointError(f"the adapter in {adapter.path} does not fit the model in {below.path}: {e}") from e
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameters[name].shape) for name in adapter_names(model)}
    spec = adapter_spec(model)
    check_adapter(adapter, spec, shapes, None)
    return replace(adapter, spec=spec)


def _merged(source: Source) -> Iterator[tuple[str, Tensor]]:
    """Base and adapter as one; ends with an error if the adapter was trained on another base."""
    model = _adapted(source, source.adapter.spec)
    base = BaseWeights(source.checkpointer)
    yield from merged(model, base.weights(base_tensors(model)), source.adapter.tensors)
    check_adapter(source.adapter, source.adapter.spec, source.adapter.infos, base.fingerprint)
