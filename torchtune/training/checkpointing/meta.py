"""Meta's layout: ``consolidated.NN.pth`` (one file, or model-parallel parts), ``params.json``, ``tokenizer.model``."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from torchtune.models import family_for_model_type
from torchtune.models._tensor_forms import Shape
from torchtune.models._weights import EMBEDDING, OUTPUT, WeightMap
from torchtune.training.checkpointing._base import FullModelCheckpointer
from torchtune.training.checkpointing._copy import copy_rest
from torchtune.training.checkpointing._files import find_meta_files
from torchtune.training.checkpointing._io import FileRecord
from torchtune.training.checkpointing._safetensors import Info
from torchtune.training.checkpointing._source import Files, ModelParallelFiles, Tensors
from torchtune.training.checkpointing._torch_file import write_torch_file


class FullModelMetaCheckpointer(FullModelCheckpointer):
    """Reads and writes the layout of Meta's own releases; the parts of a split release are joined as they are read.

    Args:
        checkpoint_dir: a folder, or one file of weights.
        checkpoint_files: names or one name; None finds ``consolidated.*.pth``.
        model_type: for example ``LLAMA3``; None reads Llama's names.
        output_dir: where ``epoch_N`` folders go; None only reads.
        adapter_checkpoint: a file or folder, what :meth:`adapter` reads when it is given none.
        recipe_checkpoint: name of the recipe state's file in ``output_dir/recipe_state``.
        resume_from_checkpoint: ``load_checkpoint`` takes the recipe's state and the folder that was saved with it.
        should_load_recipe_state: newer name of ``resume_from_checkpoint``; either will do.

    Raises:
        CheckpointError: the folder is not there.
    """

    def _read_folder(self) -> None:
        self.family = family_for_model_type(self.model_type or "LLAMA3")

    def _find_files(self) -> list[Path]:
        return find_meta_files(self.checkpoint_dir)

    def _open(self, paths: list[Path]) -> Tensors:
        return Files(paths) if len(paths) == 1 else ModelParallelFiles(paths)

    def _names(self, shapes: Mapping[str, Shape]) -> WeightMap:
        return self.family.meta

    def _write_weights(
        self, folder: Path, infos: dict[str, Info], tensors: Iterator[tuple[str, Tensor]], max_shard_size: int | str
    ) -> dict[str, FileRecord]:
        """One file. Meta's own reader wants the output projection of a tied model too; it shares the bytes."""
        embedding, output = (w.foreign for w in self.family.meta.plan_write([EMBEDDING, OUTPUT], head_dim=None))
        name, same = "consolidated.00.pth", {} if output in infos else {output: embedding}
        record = write_torch_file(folder / name, infos, tensors, same)
        return {name: record} | copy_rest(self._rest_dir, folder)
