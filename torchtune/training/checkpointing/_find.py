"""Which format a folder is in."""

from pathlib import Path
from typing import Any

from torchtune.errors import CheckpointError
from torchtune.training.checkpointing._base import FullModelCheckpointer
from torchtune.training.checkpointing._files import split_folder
from torchtune.training.checkpointing.hf import FullModelHFCheckpointer
from torchtune.training.checkpointing.meta import FullModelMetaCheckpointer
from torchtune.training.checkpointing.native import FullModelTorchTuneCheckpointer


def checkpointer_for(
    checkpoint_dir: str | Path, output_dir: str | Path | None = None, **options: Any
) -> FullModelCheckpointer:
    """The checkpointer whose format a folder, or one file, is in.

    Args:
        options: further arguments of the checkpointer.

    Raises:
        CheckpointError: no known format.
    """
    folder, single = split_folder(checkpoint_dir)
    names = [single] if single else [p.name for p in folder.iterdir()]
    if (folder / "config.json").is_file() and any(n.endswith((".safetensors", ".bin", ".index.json")) for n in names):
        return FullModelHFCheckpointer(checkpoint_dir, output_dir=output_dir, **options)
    if any(n.endswith(".pth") for n in names):
        return FullModelMetaCheckpointer(checkpoint_dir, output_dir=output_dir, **options)
    if any(n.endswith(".pt") for n in names):
        return FullModelTorchTuneCheckpointer(checkpoint_dir, output_dir=output_dir, **options)
    raise CheckpointError(
        f"{checkpoint_dir} is no checkpoint: expected config.json with *.safetensors or *.bin (Hugging Face), "
        f"consolidated.*.pth (Meta) or *.pt (torchtune). Found {', '.join(sorted(names)[:15]) or 'nothing'}."
    )
