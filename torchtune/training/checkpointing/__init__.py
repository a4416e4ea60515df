"""Bytes on a disk <-> named tensors: formats of weights, folders that are complete or absent, the state of a run."""

from torchtune.training.checkpointing._atomic import (
    checkpoints,
    commit_folder,
    fault,
    is_complete,
    newest_complete,
    prune,
    sweep,
)
from torchtune.training.checkpointing._check import check_vocabulary
from torchtune.training.checkpointing._check_adapter import check_adapter
from torchtune.training.checkpointing._files import FormattedCheckpointFiles
from torchtune.training.checkpointing._find import checkpointer_for
from torchtune.training.checkpointing._legacy import get_largest_iter_folder, update_state_dict_for_classifier
from torchtune.training.checkpointing._lock import OutputLock
from torchtune.training.checkpointing._names import (
    ADAPTER_CONFIG,
    ADAPTER_KEY,
    DATALOADER_KEY,
    EPOCHS_KEY,
    MAX_STEPS_KEY,
    MODEL_KEY,
    OPT_KEY,
    RNG_KEY,
    SEED_KEY,
    STEPS_KEY,
    TOTAL_EPOCHS_KEY,
    VAL_DATALOADER_KEY,
    ModelType,
)
from torchtune.training.checkpointing.adapter import LoadedAdapter
from torchtune.training.checkpointing.hf import FullModelHFCheckpointer
from torchtune.training.checkpointing.meta import FullModelMetaCheckpointer
from torchtune.training.checkpointing.native import FullModelTorchTuneCheckpointer
from torchtune.training.checkpointing.state import LocalShard, Span, load_state, resume_fault, save_state

Checkpointer = FullModelHFCheckpointer | FullModelMetaCheckpointer | FullModelTorchTuneCheckpointer

__all__ = [
    "ADAPTER_CONFIG", "ADAPTER_KEY", "DATALOADER_KEY", "EPOCHS_KEY", "MAX_STEPS_KEY", "MODEL_KEY", "OPT_KEY",
    "RNG_KEY", "SEED_KEY", "STEPS_KEY", "TOTAL_EPOCHS_KEY", "VAL_DATALOADER_KEY", "Checkpointer",
    "FormattedCheckpointFiles", "FullModelHFCheckpointer", "FullModelMetaCheckpointer",
    "FullModelTorchTuneCheckpointer", "LoadedAdapter", "LocalShard", "ModelType", "OutputLock", "Span", "check_adapter",
    "check_vocabulary", "checkpointer_for", "checkpoints", "commit_folder", "fault", "get_largest_iter_folder",
    "is_complete", "load_state", "newest_complete", "prune", "resume_fault", "save_state", "sweep",
    "update_state_dict_for_classifier",
]  # fmt: skip
