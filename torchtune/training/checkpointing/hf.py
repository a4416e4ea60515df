"""Hugging Face's layout: safetensors (or ``.bin``) shards with an index, ``config.json``, tokenizer files."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchtune.errors import CheckpointError, ConfigError
from torchtune.models import family_for_model_type, family_of
from torchtune.models._family import Family, num_classes
from torchtune.models._peft_stacks import heights_of
from torchtune.models._tensor_forms import Read, Shape
from torchtune.models._text_part import names_inside, text_config
from torchtune.models._weights import EMBEDDING, OUTPUT, ReadPlan, WeightMap
from torchtune.training.checkpointing._base import FullModelCheckpointer
from torchtune.training.checkpointing._check import describe
from torchtune.training.checkpointing._classifier import classifier_facts, is_classifier, start_head
from torchtune.training.checkpointing._copy import copy_rest
from torchtune.training.checkpointing._files import CheckpointFiles, check_is_model_folder, find_hf_files
from torchtune.training.checkpointing._io import FileRecord, read_json, write_json
from torchtune.training.checkpointing._mxfp4 import MXFP4, Mxfp4Experts
from torchtune.training.checkpointing._names import ModelType
from torchtune.training.checkpointing._safetensors import Info, split_into_shards, write_safetensors
from torchtune.training.checkpointing._source import Tensors, TextPart
from torchtune.training.checkpointing._torch_file import write_torch_file
from torchtune.utils._logging import log_once

# They would tell transformers to expect a model that reads images.
_FOR_IMAGES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_QUANTISATION = "quantization_config"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

logger = logging.getLogger(__name__)


class FullModelHFCheckpointer(FullModelCheckpointer):
    """Reads and writes the layout that transformers' ``from_pretrained`` and the Hub use.

    Of a checkpoint that reads images too (Gemma 3, Mistral Small 3.1, Llama 4) the language model is read, and written
    alone. Experts in MXFP4 (gpt-oss) are read as bfloat16, and written so.

    Args:
        checkpoint_dir: a folder with ``config.json``, or one file of weights in it.
        checkpoint_files: names, one name, or ``{filename_format, max_filename}``; None finds them.
        model_type: for example ``LLAMA3_2``; None, like ``REWARD``, takes ``config.json``'s.
        output_dir: where ``epoch_N`` folders go; None only reads.
        adapter_checkpoint: a file or folder, what :meth:`adapter` reads when it is given none.
        recipe_checkpoint: name of the recipe state's file in ``output_dir/recipe_state``.
        resume_from_checkpoint: ``load_checkpoint`` takes the recipe's state and the folder that was saved with it.
        safe_serialization: write safetensors; False writes ``pytorch_model-*.bin``.
        should_load_recipe_state: newer name of ``resume_from_checkpoint``; either will do.
        keep_last_n_checkpoints: delete older folders after a save; None keeps all.
        enable_dcp: refused when True; files here are never in that format.

    Raises:
        CheckpointError: the folder is not a checkpoint, or one of another family than ``model_type`` says.
    """

    def __init__(
        self,
        checkpoint_dir: str,
        checkpoint_files: CheckpointFiles = None,
        model_type: str | ModelType | None = None,
        output_dir: str | None = None,
        adapter_checkpoint: str | None = "adapter_model.pt",
        recipe_checkpoint: str | None = "recipe_state.pt",
        resume_from_checkpoint: bool = False,
        safe_serialization: bool = True,
        should_load_recipe_state: bool = False,
        *,
        keep_last_n_checkpoints: int | None = None,
        enable_dcp: bool = False,
    ) -> None:
        if enable_dcp:
            raise ConfigError("enable_dcp is not supported by FullModelHFCheckpointer; leave it out")
        self.safe_serialization = safe_serialization
        super().__init__(
            checkpoint_dir,
            checkpoint_files,
            model_type,
            output_dir,
            adapter_checkpoint=adapter_checkpoint,
            recipe_checkpoint=recipe_checkpoint,
            resume_from_checkpoint=resume_from_checkpoint,
            should_load_recipe_state=should_load_recipe_state,
            keep_last_n_checkpoints=keep_last_n_checkpoints,
        )

    def _read_folder(self) -> None:
        check_is_model_folder(self.checkpoint_dir)
        whole = read_json(self.checkpoint_dir / "config.json")
        if not isinstance(whole, dict):
            raise CheckpointError(f"{self.checkpoint_dir / 'config.json'} is not a table of settings")
        self.config: Mapping[str, Any] = text_config(whole)
        self._part_of = None if self.config is whole else whole["model_type"]
        self._has_mxfp4 = quantisation_of(self.config) == MXFP4
        if self._has_mxfp4:
            self.config = {key: value for key, value in self.config.items() if key != _QUANTISATION}
        self.family = self._find_family()
        arch = self.family.numbers(self.config)
        self._head_dim = arch.channels
        self._classifies = num_classes(self.config) is not None
        self._tied = None if self._classifies else arch.tied

    def _find_family(self) -> Family:
        """``REWARD`` is any family: what its models give is told by the builder."""
        is_named = self.model_type is not None and self.model_type.upper() != ModelType.REWARD.name
        asked = family_for_model_type(self.model_type) if is_named else None
        if asked is not None and "model_type" not in self.config:
            return asked
        found = family_of(self.config)
        if asked is not None and asked.name != found.name:
            raise CheckpointError(
                f"model_type is {self.model_type} ({asked.name}), but {self.checkpoint_dir / 'config.json'} says "
                f"{self.config['model_type']!r}. Leave model_type out, or point checkpoint_dir to the other model."
            )
        return found

    def _heights(self) -> dict[str, int]:
        return heights_of(self.family, self.config)

    def _find_files(self) -> list[Path]:
        return find_hf_files(self.checkpoint_dir)

    def _plan(self, shapes: Mapping[str, Shape] | None) -> tuple[Tensors, list[Read]]:
        if shapes is not None:
            self._classifies = is_classifier(shapes)  # the adapters of the model want to know it too
        return super()._plan(shapes)

    def _names(self, shapes: Mapping[str, Shape]) -> WeightMap:
        classifies = is_classifier(shapes) if EMBEDDING in shapes else self._classifies
        return self.family.hf_classifier if classifies else self.family.hf

    def _hf_names(self) -> WeightMap:
        names = self.family.hf_classifier if self._classifies else self.family.hf
        return names_inside(names, self._part_of) if self._part_of else names

    def _plan_read(self, names: WeightMap, found: Mapping[str, Shape], shapes: Mapping[str, Shape] | None) -> ReadPlan:
        plan = super()._plan_read(names, found, shapes)
        if shapes is not None and self._classifies and num_classes(self.config) is None:
            start_head(plan, shapes, self.config, str(self.checkpoint_dir))
        return plan

    def _open(self, paths: list[Path]) -> Tensors:
        if method := quantisation_of(self.config):
            raise CheckpointError(
                f"the weights in {self.checkpoint_dir} are quantised ({method}), and this needs them as they were "
                "trained. Point checkpoint_dir to the folder that they were made from."
            )
        found = super()._open(paths)
        if self._has_mxfp4:
            message = f"the experts in {self.checkpoint_dir} are in MXFP4; they are taken as bfloat16, and saved so."
            log_once(logger, message, logging.INFO)
            found = Mxfp4Experts(found)
        if not self._part_of:
            return found
        message = (
            f"{self.checkpoint_dir} reads images too; only its language model is taken, and saved without the rest."
        )
        log_once(logger, message, logging.WARNING)
        return TextPart(found)

    def _about(self) -> str:
        classes = num_classes(self.config)
        return describe(self.config) + (f" It is a classifier of {classes} classes." if classes else "")

    def _write_weights(
        self, folder: Path, infos: dict[str, Info], tensors: Iterator[tuple[str, Tensor]], max_shard_size: int | str
    ) -> dict[str, FileRecord]:
        records = self._write_shards(folder, infos, tensors, max_shard_size)
        return records | self._write_rest(folder, self._config_changes(infos))

    def _write_rest(self, folder: Path, changes: Mapping[str, Any]) -> dict[str, FileRecord]:
        """What lies beside the weights, with some keys of ``config.json`` changed."""
        if not self._part_of and not self._has_mxfp4:
            return copy_rest(self._rest_dir, folder, {"config.json": changes})
        for_images = _FOR_IMAGES if self._part_of else ()
        records = copy_rest(self._rest_dir, folder, without=("config.json", *for_images))
        return records | {"config.json": write_json(folder / "config.json", {**self.config, **changes})}

    def _write_shards(
        self,
        folder: Path,
        infos: dict[str, Info],
        tensors: Iterator[tuple[str, Tensor]],
        max_shard_size: int | str,
        metadata: dict[str, str] | None = None,
    ) -> dict[str, FileRecord]:
        """The files of weights and their index; ``metadata`` goes into the header of every safetensors file."""
        stem, suffix = ("model", "safetensors") if self.safe_serialization else ("pytorch_model", "bin")
        write = partial(write_safetensors, metadata=metadata) if self.safe_serialization else write_torch_file
        shards = split_into_shards(infos, parse_size(max_shard_size))
        records, weight_map = {}, {}
        for number, shard in enumerate(shards, 1):
            name = f"{stem}-{number:05}-of-{len(shards):05}.{suffix}"
            records[name] = write(folder / name, shard, islice(tensors, len(shard)))
            weight_map |= dict.fromkeys(shard, name)
        assert next(tensors, None) is None, "more tensors came than were announced"
        index = {"metadata": {"total_size": sum(i.bytes for i in infos.values())}, "weight_map": weight_map}
        index_name = f"{stem}.{suffix}.index.json"
        return records | {index_name: write_json(folder / index_name, index)}

    def _config_changes(self, infos: dict[str, Info]) -> dict[str, Any]:
        """What the weights contradict in ``config.json``."""
        head = self.family.hf_classifier.plan_write([OUTPUT], head_dim=None)[0].foreign
        embedding, output = (w.foreign for w in self.family.hf.plan_write([EMBEDDING, OUTPUT], head_dim=None))
        facts: dict[str, Any] = {"vocab_size": infos[embedding].shape[0]}
        dtype = str(_commonest_dtype(infos)).removeprefix("torch.")
        facts |= {key: dtype for key in ("dtype", "torch_dtype") if key in self.config}
        if head in infos:
            facts |= classifier_facts(self.config, infos[head].shape[0])
        elif self._tied and output in infos:
            facts["tie_word_embeddings"] = False
        return {key: value for key, value in facts.items() if self.config.get(key) != value}


def _commonest_dtype(infos: dict[str, Info]) -> torch.dtype:
    sizes: Counter[torch.dtype] = Counter()
    for info in infos.values():
        sizes[info.dtype] += info.bytes // info.dtype.itemsize
    return sizes.most_common(1)[0][0]


def quantisation_of(config: Mapping[str, Any]) -> str | None:
    """What a ``config.json`` says that the weights beside it are quantised with, as ``torchao``; None if they are not.

    https://huggingface.co/docs/transformers/main_classes/quantization
    """
    found = config.get(_QUANTISATION)
    return str(found.get("quant_method")) if isinstance(found, Mapping) else None


def parse_size(size: int | str) -> int:
    """Bytes, of a number or of text such as ``5GB`` (powers of 1000) or ``5GiB`` (powers of 1024).

    Raises:
        ConfigError: the text is not a size.
    """
    if isinstance(size, int):
        return size
    text = size.strip().upper()
    unit = next((u for u in _UNITS if text.endswith(u)), "")
    number = text.removesuffix(unit).strip()
    if not number.replace(".", "", 1).isdigit() or float(number) <= 0:
        raise ConfigError(f"max_shard_size {size!r} is not a size; write for example '5GB'")
    return int(float(number) * _UNITS.get(unit, 1))
