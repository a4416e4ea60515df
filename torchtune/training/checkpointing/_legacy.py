"""Helpers that copied recipes import."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor
from torch.nn import Parameter

from torchtune.errors import CheckpointError
from torchtune.models._weights import OUTPUT

logger = logging.getLogger(__name__)


def get_largest_iter_folder(dir: str | Path, pattern: str = r"^epoch_(\d+)") -> str | None:
    """The name of the folder with the largest number, or None. It may be incomplete: see ``newest_complete``."""
    found = [(int(m[1]), p.name) for p in Path(dir).iterdir() if p.is_dir() and (m := re.match(pattern, p.name))]
    return max(found)[1] if found else None


def update_state_dict_for_classifier(
    state_dict: dict[str, Tensor],
    model_named_parameters: Iterable[tuple[str, Parameter]],
    force_override: bool = False,
) -> None:
    """Give a language model's state dict, in place, the output layer of a classifier that is to start from it.

    Args:
        force_override: also when the shapes are alike.

    Raises:
        CheckpointError: the state dict or the model has no ``output.weight``.
    """
    parameters = dict(model_named_parameters)
    for place, names in (("state dict", state_dict), ("model", parameters)):
        if OUTPUT not in names:
            raise CheckpointError(f"the {place} has no {OUTPUT}, so it has no output layer to replace")
    if "output.bias" in state_dict:
        logger.warning("output.bias of the state dict is not used.")
        del state_dict["output.bias"]
    if force_override or state_dict[OUTPUT].shape != parameters[OUTPUT].shape:
        state_dict[OUTPUT] = parameters[OUTPUT]
