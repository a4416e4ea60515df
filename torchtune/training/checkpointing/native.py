"""The library's own layout: a ``.pt`` file of the state dict, names unchanged."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from torchtune.models import family_for_model_type
from torchtune.models._tensor_forms import Shape
from torchtune.models._weights import WeightMap
from torchtune.training.checkpointing._base import FullModelCheckpointer
from torchtune.training.checkpointing._copy import copy_rest
from torchtune.training.checkpointing._files import find_native_files
from torchtune.training.checkpointing._io import FileRecord
from torchtune.training.checkpointing._safetensors import Info
from torchtune.training.checkpointing._torch_file import write_torch_file


class FullModelTorchTuneCheckpointer(FullModelCheckpointer):
    """Reads and writes state dicts as they are in memory.

    Args:
        checkpoint_dir: a folder, or one file of weights.
        checkpoint_files: names or one name; None finds ``*.pt``.
        model_type: for example ``LLAMA3``; needed only for adapters in PEFT's format, whose names are not the model's.
        output_dir: where ``epoch_N`` folders go; None only reads.
        adapter_checkpoint: a file or folder, what :meth:`adapter` reads when it is given none.
        recipe_checkpoint: name of the recipe state's file in ``output_dir/recipe_state``.
        resume_from_checkpoint: ``load_checkpoint`` takes the recipe's state and the folder that was saved with it.
        should_load_recipe_state: newer name of ``resume_from_checkpoint``; either will do.

    Raises:
        CheckpointError: the folder is not there.
    """

    def load_checkpoint(self, weights_only: bool = True) -> dict:
        """The whole state dict, under ``"model"``; see :meth:`FullModelCheckpointer.load_checkpoint`.

        Args:
            weights_only: must stay True; a pickle from elsewhere can run anything.

        Raises:
            CheckpointError: the files cannot be read.
        """
        if not weights_only:
            raise ValueError("weights_only=False would run code from the file; only tensors and plain values are read")
        return super().load_checkpoint()

    def _read_folder(self) -> None:
        pass

    def _hf_names(self) -> WeightMap | None:
        return family_for_model_type(self.model_type).hf if self.model_type else None

    def _find_files(self) -> list[Path]:
        return find_native_files(self.checkpoint_dir)

    def _names(self, shapes: Mapping[str, Shape]) -> WeightMap:
        return WeightMap({name: name for name in shapes}, rotary=())

    def _write_weights(
        self, folder: Path, infos: dict[str, Info], tensors: Iterator[tuple[str, Tensor]], max_shard_size: int | str
    ) -> dict[str, FileRecord]:
        name = "model-00001-of-00001.pt"
        return {name: write_torch_file(folder / name, infos, tensors)} | copy_rest(self._rest_dir, folder)
