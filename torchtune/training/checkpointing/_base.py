"""What the checkpoint formats share: reading into a model, committing a folder, torchtune's documented methods."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from torchtune.errors import CheckpointError, ConfigError, TuneError
from torchtune.models._family import Family
from torchtune.models._peft import spec_of_torchtune
from torchtune.models._tensor_forms import Read, Shape, Write
from torchtune.models._weights import ReadPlan, WeightMap
from torchtune.modules.peft import AdapterSpec
from torchtune.training.checkpointing._atomic import RECIPE_STATE, commit_folder, fault, newest_complete, prune
from torchtune.training.checkpointing._check import check_plan
from torchtune.training.checkpointing._copy import copy_rest
from torchtune.training.checkpointing._files import CheckpointFiles, named_files, split_folder
from torchtune.training.checkpointing._io import FileRecord
from torchtune.training.checkpointing._names import ADAPTER_CONFIG, ADAPTER_KEY, MODEL_KEY, ModelType
from torchtune.training.checkpointing._safetensors import Info
from torchtune.training.checkpointing._source import Files, Tensors
from torchtune.training.checkpointing._torch_file import load_torch_file, write_torch_file
from torchtune.training.checkpointing.adapter import (
    ADAPTER_FILE,
    ADAPTER_FOLDER,
    LoadedAdapter,
    PeftForm,
    base_name,
    find_adapter,
    peft_form,
    read_adapter,
    write_peft,
)
from torchtune.training.checkpointing.state import write_recipe_state

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]

logger = logging.getLogger(__name__)

_CHECKPOINT_KEY = "checkpoint"  # in a recipe's state: the folder that was saved with it


class FullModelCheckpointer(ABC):
    """A folder of weights to read, and a format to write. Knows files and names; neither devices nor training."""

    def __init__(
        self,
        checkpoint_dir: str | Path,
        checkpoint_files: CheckpointFiles = None,
        model_type: str | ModelType | None = None,
        output_dir: str | Path | None = None,
        adapter_checkpoint: str | None = None,
        recipe_checkpoint: str | None = None,
        resume_from_checkpoint: bool = False,
        should_load_recipe_state: bool = False,
        *,
        keep_last_n_checkpoints: int | None = None,
    ) -> None:
        folder, single = split_folder(checkpoint_dir)
        if single is not None and checkpoint_files is not None:
            raise ConfigError(f"checkpoint_dir {checkpoint_dir} is a file, so checkpoint_files must be left out")
        self.checkpoint_dir = folder
        self.output_dir = None if output_dir is None else Path(output_dir).expanduser()
        self.model_type = model_type.name if isinstance(model_type, ModelType) else model_type
        self.keep_last_n_checkpoints = keep_last_n_checkpoints
        self._rest_dir = folder
        self._files = single if single is not None else checkpoint_files
        self._adapter = adapter_checkpoint
        self._recipe_file = recipe_checkpoint or "recipe_state.pt"
        self._resume = resume_from_checkpoint or should_load_recipe_state  # two names of one thing, older and newer
        self._read_folder()

    def reading(self, folder: Path) -> Self:
        """The same checkpointer, with its weights in another folder: one that it has written."""
        other = copy.copy(self)
        other.checkpoint_dir, other._files = folder, None
        other._read_folder()
        return other

    # What a format says of itself.

    @abstractmethod
    def _read_folder(self) -> None:
        """Learn what can be known before the weights are opened."""

    @abstractmethod
    def _find_files(self) -> list[Path]:
        """The files with weights, when a config names none."""

    @abstractmethod
    def _names(self, shapes: Mapping[str, Shape]) -> WeightMap:
        """The format's names of a model's tensors.

        Args:
            shapes: of the model's tensors; of those in the files where no model is given.
        """

    @abstractmethod
    def _write_weights(
        self, folder: Path, infos: dict[str, Info], tensors: Iterator[tuple[str, Tensor]], max_shard_size: int | str
    ) -> dict[str, FileRecord]:
        """Write tensors that have the format's names, in the order of ``infos``, and what goes along with them."""

    def _hf_names(self) -> WeightMap | None:
        """The names that the model has in transformers, which PEFT's are made of; None when they are not known."""
        return None if self.family is None else self.family.hf

    def _heights(self) -> dict[str, int]:
        """The rows of the model's weights; none where they are not known without it."""
        return {}

    def _open(self, paths: list[Path]) -> Tensors:
        return Files(paths)

    def _about(self) -> str:
        """What the files say of themselves, for messages."""
        return ""

    family: Family | None = None
    _head_dim: int | None = None  # set where q and k have another channel order
    _tied: bool | None = None  # whether the files' output projection is their embedding; None: they do not say

    # Reading.

    def _source(self) -> Tensors:
        paths = self._find_files() if self._files is None else named_files(self.checkpoint_dir, self._files)
        return self._open(paths)

    def weights(self, native: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Each of the model's tensors once, as (name, whole CPU tensor), read one at a time in the order of the files.

        Args:
            native: the model's state dict; only names and shapes are used, so meta tensors will do.

        Raises:
            CheckpointError: before the first tensor, when the files do not fill the model exactly; the message lists
                what is missing, unexpected or of another shape.
        """
        source, reads = self._plan({name: tuple(tensor.shape) for name, tensor in native.items()})
        return ((r.native, _read(source, r)) for r in reads)

    def saved_as(self, native: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """The shape and the dtype in its file of each of the model's tensors, in the order of :meth:`weights`.

        Raises:
            CheckpointError: the files do not fill the model exactly.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in native.items()}
        source, reads = self._plan(shapes)
        return {r.native: (shapes[r.native], source.infos[r.foreign].dtype) for r in reads}

    def _plan(self, shapes: Mapping[str, Shape] | None) -> tuple[Tensors, list[Read]]:
        """The files, and what is read from them for a model of these shapes; None for all that they hold."""
        source = self._source()
        found = {name: info.shape for name, info in source.infos.items()}
        names = self._names(found if shapes is None else shapes)
        plan = self._plan_read(names, found, shapes)
        check_plan(plan, source, names, str(self.checkpoint_dir), self._about())
        return source, plan.reads

    def _plan_read(self, names: WeightMap, found: Mapping[str, Shape], shapes: Mapping[str, Shape] | None) -> ReadPlan:
        return names.plan_read(found, shapes, head_dim=self._head_dim, tied=self._tied)

    def adapter(self, source: str | Path | None = None, *, head_dim: int) -> LoadedAdapter:
        """The adapters in a file or folder, of PEFT's format or with the model's own names.

        Args:
            source: relative to ``checkpoint_dir``, or else to the working directory; a folder may be PEFT's or an
                ``epoch_N``. None: ``adapter_checkpoint``, or else what lies beside the weights.
            head_dim: channels of one attention head of the model.

        Raises:
            CheckpointError: there are none, or they are of a kind that the model's layers cannot be.
        """
        path = find_adapter(source or self._adapter or "", self.checkpoint_dir)
        base = base_name(self.checkpoint_dir)
        return read_adapter(path, self._hf_names(), head_dim=head_dim, base=base, heights=self._heights)

    def load_checkpoint(self) -> dict[str, Any]:
        """The whole state dict, under ``"model"``; on resume with the recipe's state, and the weights of the folder in
        ``output_dir`` that was saved with it: its adapter above the base in ``checkpoint_dir``, if it has one.

        Raises:
            CheckpointError: the files cannot be read, or there are none to resume from.
        """
        if not self._resume:
            return {MODEL_KEY: self._whole()}
        path = self._output() / RECIPE_STATE / self._recipe_file
        if not path.is_file():
            raise CheckpointError(f"the recipe is to resume, but there is no {path}; set resume_from_checkpoint=False")
        state = load_torch_file(path)
        folder = self._folder_of(state.pop(_CHECKPOINT_KEY, None))
        logger.info("Resuming with the weights in %s.", folder)
        adapter = folder / ADAPTER_FILE
        if adapter.is_file():  # the weights in its folder have it merged in already
            return {MODEL_KEY: self._whole(), ADAPTER_KEY: load_torch_file(adapter)} | state
        return {MODEL_KEY: self.reading(folder)._whole()} | state

    def _folder_of(self, name: str | None) -> Path:
        """The checkpoint that a recipe's state names; the newest complete one if it names none, as others write it."""
        output = self._output()
        if name is None:
            newest, _ = newest_complete(output)
            if newest is None:
                raise CheckpointError(f"the recipe is to resume, but {output} has no complete epoch_N or step_N")
            return newest
        if reason := fault(output / name):
            raise CheckpointError(f"the recipe's state belongs to {output / name}, which is not whole: {reason}")
        return output / name

    def _whole(self) -> dict[str, Tensor]:
        source, reads = self._plan(None)
        return {r.native: _read(source, r) for r in reads}

    # Writing.

    def write(
        self,
        folder: Path,
        tensors: Iterable[tuple[str, Tensor]],
        shapes: Shapes,
        *,
        main: bool = True,
        max_shard_size: int | str = "5GB",
    ) -> dict[str, FileRecord]:
        """Write a model into a folder that exists; gives the records of the files. For ``commit_folder``.

        Every process calls this and draws all ``tensors``, since each may be the fruit of a collective; only ``main``
        writes. One tensor is in memory at a time.

        Args:
            tensors: (name, whole tensor), in the order of ``shapes``.
            shapes: name -> (shape, dtype to write).
        """
        drawn = iter(tensors)
        if not main:
            _exhaust(drawn)
            return {}
        try:
            wanted = {name: tuple(shape) for name, (shape, _) in shapes.items()}
            writes = self._names(wanted).plan_write(wanted, head_dim=self._head_dim)
            infos = {w.foreign: Info(w.shape([wanted[n] for n in w.natives]), shapes[w.natives[0]][1]) for w in writes}
            return self._write_weights(folder, infos, _translated(writes, drawn, shapes), max_shard_size)
        except (OSError, TuneError):
            _exhaust(drawn)  # the other processes wait in the gathers that are left
            raise

    def save_checkpoint(
        self,
        state_dict: dict[str, Any],
        epoch: int,
        intermediate_checkpoint: bool = False,
        adapter_only: bool = False,
        *,
        step: int | None = None,
        max_shard_size: int | str = "5GB",
        dir_prefix: str = "epoch",
    ) -> None:
        """Write ``output_dir/epoch_N`` (or ``step_N``) in one step, from one process.

        Args:
            state_dict: the whole model under ``"model"``, adapters under ``"adapter"`` and what torchtune says of them
                under ``"adapter_config"``, all else for resuming.
            intermediate_checkpoint: also write all else, to ``recipe_state/recipe_state.pt``.
            adapter_only: leave the model out, and its config.
            max_shard_size: bytes, or with a unit as in ``"5GB"``.
            dir_prefix: ``"step"`` names the folder by ``step``.

        Raises:
            CheckpointError: the storage failed; folders written before are untouched.
        """
        if adapter_only and ADAPTER_KEY not in state_dict:
            raise CheckpointError(f"adapter_only is set, but there is no adapter: the state has {sorted(state_dict)}")
        model = {} if adapter_only else state_dict[MODEL_KEY]
        name = f"{dir_prefix}_{step if dir_prefix == 'step' and step is not None else epoch}"

        def write(folder: Path) -> dict[str, FileRecord]:
            shapes = {k: (tuple(v.shape), v.dtype) for k, v in model.items()}
            records = self.write(folder, model.items(), shapes, max_shard_size=max_shard_size) if model else {}
            return records | self._write_given_adapter(folder, state_dict, adapter_only)

        facts = {"epoch": epoch} | ({} if step is None else {"step": step})
        size = sum(v.numel() * v.element_size() for v in model.values())
        commit_folder(self._output() / name, write, facts=facts, needed_bytes=size)
        if intermediate_checkpoint:
            rest = {k: v for k, v in state_dict.items() if k not in (MODEL_KEY, ADAPTER_KEY, ADAPTER_CONFIG)}
            write_recipe_state(self._output(), rest | {_CHECKPOINT_KEY: name}, self._recipe_file)
        if self.keep_last_n_checkpoints is not None:
            prune(self._output(), self.keep_last_n_checkpoints, protect=[self.checkpoint_dir])

    def _write_given_adapter(self, folder: Path, state: Mapping[str, Any], only: bool) -> dict[str, FileRecord]:
        """The adapter of a state that ``save_checkpoint`` is given."""
        if ADAPTER_KEY not in state:
            return {}
        tensors, config = state[ADAPTER_KEY], state.get(ADAPTER_CONFIG)
        shapes = {k: tuple(v.shape) for k, v in tensors.items()}
        spec = None if config is None else spec_of_torchtune(config, shapes, () if only else state[MODEL_KEY])
        return self.write_adapter(folder, tensors, spec, base=None, only=only, head_dim=self._head_dim)

    def write_adapter(
        self,
        folder: Path,
        tensors: Mapping[str, Tensor],
        spec: AdapterSpec | None,
        *,
        base: str | None,
        only: bool,
        head_dim: int | None,
    ) -> dict[str, FileRecord]:
        """Write adapters into a folder that exists, in PEFT's format and with the model's own names; gives the records.

        Args:
            tensors: whole, on the CPU, in the dtype to write.
            spec: what they are; None, like ``head_dim``, when it is not known, and PEFT's files are then left out.
            base: a fingerprint of the weights that they were trained on.
            only: PEFT's files come to the top of the folder, and all that belongs to the base but its weights and
                config; else to the subfolder ``adapter``.
        """
        infos = {k: Info(tuple(t.shape), t.dtype) for k, t in tensors.items()}
        records = {ADAPTER_FILE: write_torch_file(folder / ADAPTER_FILE, infos, tensors.items())}
        if form := self._peft_form(tensors, spec, head_dim):
            inner = "" if only else ADAPTER_FOLDER
            (folder / inner).mkdir(exist_ok=True)
            found = write_peft(folder / inner, form, base)
            records |= {(Path(inner) / name).as_posix(): record for name, record in found.items()}
        if only:  # a config.json would say that the base's weights are here
            records |= copy_rest(self._rest_dir, folder, without=("config.json",))
        return records

    def _peft_form(
        self, tensors: Mapping[str, Tensor], spec: AdapterSpec | None, head_dim: int | None
    ) -> PeftForm | None:
        """None, with a warning, where it cannot be had: what was trained must not be lost for that."""
        try:
            about = {"base": base_name(self.checkpoint_dir), "head_dim": head_dim, "heights": self._heights}
            return peft_form(tensors, spec, self._hf_names(), **about)
        except TuneError as e:
            logger.warning("The adapter is written as %s only, not in PEFT's format: %s.", ADAPTER_FILE, e)
            return None

    def _output(self) -> Path:
        if self.output_dir is None:
            raise ConfigError(
                "the checkpointer has no output_dir, so it cannot write or resume; set checkpointer.output_dir"
            )
        return self.output_dir


def _read(source: Tensors, read: Read) -> Tensor:
    def fetch(name: str, rows: tuple[int, int] | None) -> Tensor:
        try:
            return source.read(name, rows)
        except OSError as e:
            raise CheckpointError(f"cannot read {name} from {source.where(name)}: {e.strerror}") from e

    return read.make(fetch)


def _exhaust(tensors: Iterator[Any]) -> None:
    for _ in tensors:
        pass


def _translated(
    writes: list[Write], tensors: Iterable[tuple[str, Tensor]], shapes: Shapes
) -> Iterator[tuple[str, Tensor]]:
    """The format's tensors, each as soon as all its parts have come."""
    drawn, held = iter(tensors), {}
    for natives, group in groupby(writes, key=attrgetter("natives")):
        while not all(n in held for n in natives):
            name, tensor = next(drawn)
            held[name] = tensor.detach().to("cpu", shapes[name][1])
            del tensor
        parts = [held.pop(n) for n in natives]
        for write in group:
            yield write.foreign, write.finish(parts)
        del parts
    assert next(drawn, None) is None, "more tensors came than were announced"
