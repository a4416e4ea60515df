"""Whether a model is the one that the ``config.json`` beside its weights describes, in what no weight's shape shows."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from torchtune.errors import CheckpointError
from torchtune.modules import MultiHeadAttention
from torchtune.modules.peft import AdapterModule
from torchtune.training.checkpointing import Checkpointer, FullModelHFCheckpointer
from torchtune.training.model import meta_init

logger = logging.getLogger(__name__)

# What changes nothing that is computed, or training alone, or shows in the weights' shapes: sizes, and the output
# projection, which may also be a classifier's, or untied from the embedding that it starts as.
_LEFT_OUT = {
    "attn_dropout", "embed_dim", "embedding_dim", "hidden_dim", "inplace", "max_seq_len", "normalized_shape",
    "num_embeddings", "output", "training",
}  # fmt: skip
# What people call a setting wherever it is; any other is called by its place too.
_WORDS = {
    "activation": "activation",
    "base": "rope base",
    "eps": "norm eps",
    "finish_logits": "cap of the logits",
    "head_dim": "channels of a head",
    "interleaved": "interleaved rope",
    "num_heads": "heads",
    "num_kv_heads": "key-value heads",
    "offset": "norm offset",
    "pos_embeddings": "positions",
    "scale": "attention scale",
    "softcap": "cap of the attention scores",
    "window": "window",
}
_MOST = 6  # runs of layers that are listed


def check_model(model: nn.Module, checkpointer: Checkpointer) -> None:
    """Warn of every setting in which a model differs from the one that ``config.json`` describes.

    It goes on, because a difference may be meant: torchtune's ``mistral_7b`` leaves out the window of its checkpoint.

    Args:
        model: as its builder makes it, with or without adapters.
        checkpointer: of the weights that the model gets; there is nothing to compare with in other formats than
            Hugging Face's.
    """
    if not isinstance(checkpointer, FullModelHFCheckpointer):
        return
    place = checkpointer.checkpoint_dir / "config.json"
    try:
        with meta_init(torch.float32):
            expected = checkpointer.family.build(checkpointer.config)
    except (CheckpointError, ValueError) as e:  # the second where its numbers do not fit each other
        logger.warning("The model cannot be compared with %s, but for the shapes of its weights: %s.", place, e)
        return
    if found := differences(expected, model):
        logger.warning(
            "The model is not the one that %s describes:\n  %s\nThe model is used as it is built. If that is not "
            "meant, take the builder that belongs to these weights, or torchtune.models.auto (lora_auto, qlora_auto), "
            "which follows config.json. Other programs go by config.json, also in checkpoints of this model.",
            place,
            "\n  ".join(found),
        )


def differences(expected: nn.Module, model: nn.Module) -> list[str]:
    """A sentence for each setting in which a model differs from the expected one.

    Linear layers are passed by: adapters and 4 bits change what they are, and shapes show the rest of them.
    """
    layers: dict[tuple[str, str, str], set[int]] = {}
    for place, *difference in _compare(expected, model, "", getattr(model, "max_seq_len", None)):
        parts = place.split(".")
        layers.setdefault(tuple(difference), set()).update([int(parts[1])] if parts[0] == "layers" else [])
    return [
        f"config.json says {what} {shorten(theirs, 100)}; the model has {shorten(ours, 100)}{_told_layers(numbers)}"
        for (what, theirs, ours), numbers in layers.items()
    ]


def _compare(theirs: Any, ours: Any, place: str, longest: int | None) -> Iterator[tuple[str, str, str, str]]:
    """Each difference in a module, or None, and below it: its place, what differs there, theirs and ours."""
    if isinstance(theirs, nn.Linear) or isinstance(ours, nn.Linear):
        return
    a, b = _settings(theirs, longest), _settings(ours, longest)
    leaf = place.rpartition(".")[2]
    adapted = isinstance(ours, AdapterModule) and isinstance(ours, type(theirs))
    if type(theirs) is not type(ours) and not adapted:
        yield place, _WORDS.get(leaf, leaf), _told(theirs, a, b), _told(ours, b, a)
    for name in a:
        if a[name] != b.get(name, a[name]):
            yield place, _WORDS.get(name, f"{leaf} {name}"), a[name], b[name]
    for name in dict.fromkeys([*_children(theirs), *_children(ours)]):
        if hasattr(theirs, name) and hasattr(ours, name) and name not in _LEFT_OUT:
            yield from _compare(getattr(theirs, name), getattr(ours, name), f"{place}.{name}".strip("."), longest)


def _children(module: Any) -> Iterable[str]:
    return module._modules if isinstance(module, nn.Module) else ()


def _settings(module: Any, longest: int | None) -> dict[str, str]:
    """What makes a module compute what it does, by name.

    Args:
        longest: tokens of the model's longest sequence; a window as long as that is none.
    """
    found = {k: v for k, v in getattr(module, "__dict__", {}).items() if k[0] != "_" and k not in _LEFT_OUT}
    if isinstance(module, MultiHeadAttention):
        found["scale"] = module.scale or module.head_dim**-0.5
        if longest and module.window and module.window >= longest:
            found["window"] = None
    return {name: _text(value) for name, value in found.items() if not isinstance(value, nn.Module)}


def _text(value: Any) -> str:
    """The same for the same value, whether it is written as 1, as 1.0 or with one more digit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.10g}"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, list | tuple | set | range):
        return ", ".join(map(_text, value)) or "none"
    own = {k: _text(v) for k, v in getattr(value, "__dict__", {}).items() if isinstance(v, int | float | str)}
    return getattr(value, "__name__", None) or _told(value, own, {})


def _told(value: Any, own: Mapping[str, str], other: Mapping[str, str]) -> str:
    """What something is, with those of its settings that its counterpart does not have."""
    alone = ", ".join(f"{name} {text}" for name, text in own.items() if name not in other)
    return "none" if value is None else type(value).__name__ + (f" ({alone})" if alone else "")


def _told_layers(numbers: Collection[int]) -> str:
    """Where a difference is, such as `` (layers 0 to 3, 5)``; nothing outside the layers."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    told = [f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    if len(told) > _MOST:
        told = [*told[:_MOST], f"... {len(numbers)} in all"]
    return f" (layer{'s' * (len(numbers) > 1)} {', '.join(told)})" if told else ""
