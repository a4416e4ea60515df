"""A language model's body with a classification head."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from torchtune.errors import ConfigError


def classifier_model(
    num_classes: int, base_model_path: str | Callable[..., nn.Module], **base_model_kwargs: Any
) -> nn.Module:
    """The base model with its output replaced by a linear layer [B, S, D] -> [B, S, num_classes] without bias.

    Args:
        base_model_path: dotted path of a builder in ``torchtune.models`` or in a module file in the current folder; or
            the builder itself.
        base_model_kwargs: passed to the builder.

    Raises:
        ConfigError: the path leads to no builder, or to one that is not allowed.
    """
    if num_classes < 1:
        raise ConfigError(f"num_classes must be at least 1, not {num_classes}")
    builder = _builder(base_model_path) if isinstance(base_model_path, str) else base_model_path
    model = builder(**base_model_kwargs)
    if not isinstance(getattr(model, "tok_embeddings", None), nn.Module):
        raise ConfigError(f"base_model_path {base_model_path!r} builds no decoder: the result has no tok_embeddings")
    weight = model.tok_embeddings.weight
    model.output = nn.Linear(weight.shape[1], num_classes, bias=False, device=weight.device, dtype=weight.dtype)
    model.finish_logits = None  # it belongs to words, such as a soft cap
    return model


def _builder(path: str) -> Callable[..., nn.Module]:
    """What a dotted path names.

    The path may come from a stranger's config, so it is judged before anything is imported, and the object afterwards:
    ``torchtune.models.llama2.nn.Module`` begins well and is none of ours.
    """
    module_path, _, name = path.rpartition(".")
    root = path.partition(".")[0]
    if not path.startswith("torchtune.models.") and not _lies_here(root):
        raise ConfigError(
            f"base_model_path {path!r} is refused: builders come from torchtune.models or from a module in {Path.cwd()}"
        )
    try:
        builder = getattr(importlib.import_module(module_path), name)
    except (ImportError, AttributeError) as e:
        raise ConfigError(
            f"base_model_path {path!r} leads to nothing ({e}); expected a path like torchtune.models.llama2.llama2_7b"
        ) from e
    home = getattr(getattr(builder, "func", builder), "__module__", None) or ""
    if not callable(builder) or home.partition(".")[0] != root:
        raise ConfigError(f"base_model_path {path!r} is refused: it does not name a builder that is defined in {root}")
    return builder


def _lies_here(root: str) -> bool:
    """True when ``import root`` finds a file or a folder directly in the current folder; imports nothing."""
    spec = importlib.util.find_spec(root) if root.isidentifier() else None
    if spec is None:
        return False
    found = {Path(place).resolve() for place in (spec.origin, *(spec.submodule_search_locations or [])) if place}
    return bool(found & {Path.cwd() / f"{root}.py", Path.cwd() / root})
