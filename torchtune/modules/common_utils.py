"""Small tools over whole models: key-value caches for a while, quantised weights in state dicts, layer selections."""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Recipes set this from their `low_cpu_ram` key: state dict tensors are then kept in temporary files and not in memory.
_use_low_cpu_ram: bool = False


def reparametrize_as_dtype_state_dict_post_hook(
    model: nn.Module,
    state_dict: dict[str, Any],
    *args: Any,
    dtype: torch.dtype = torch.bfloat16,
    offload_to_cpu: bool = True,
    **kwargs: Any,
) -> None:
    """Turn the 4-bit tensors of a state dict into plain ones of ``dtype``, in place; the others stay as they are.

    Args:
        model: with ``args`` and ``kwargs``, what torch passes to every state dict hook; not read.
        offload_to_cpu: put the plain tensors into host memory.
    """
    for name, tensor in state_dict.items():
        if not hasattr(tensor, "get_original_weight"):  # what 4-bit (NF4) tensors have and plain ones do not
            continue
        plain = tensor.get_original_weight().to(dtype)
        if offload_to_cpu:
            plain = _in_file(plain) if _use_low_cpu_ram else plain.cpu()
        state_dict[name] = plain


def _in_file(tensor: Tensor) -> Tensor:
    """A copy in a temporary file, whose pages the system may drop from memory and which goes with the tensor."""
    with tempfile.NamedTemporaryFile(prefix="tune-weight-") as file:
        copy = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
    return copy.view(tensor.shape).copy_(tensor)


@contextmanager
def local_kv_cache(
    model: nn.Module,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    encoder_max_seq_len: int | None = None,
    decoder_max_seq_len: int | None = None,
) -> Generator[None, None, None]:
    """Inside the ``with`` block the model has key-value caches; afterwards it has none.

    Args:
        encoder_max_seq_len: encoder positions per sequence; None means the model's ``max_seq_len``. Likewise
            ``decoder_max_seq_len``.

    Raises:
        ValueError: the model has caches already.
    """
    if model.caches_are_setup():
        raise ValueError("the model has key-value caches already; call delete_kv_caches(model) first")
    with device:
        model.setup_caches(
            batch_size, dtype, encoder_max_seq_len=encoder_max_seq_len, decoder_max_seq_len=decoder_max_seq_len
        )
    try:
        yield
    finally:
        delete_kv_caches(model)


@contextmanager
def disable_kv_cache(model: nn.Module) -> Generator[None, None, None]:
    """Inside the ``with`` block the model works without its key-value caches; what they hold is kept.

    Raises:
        ValueError: the model has no caches, or they are disabled already.
    """
    if not model.caches_are_setup():
        raise ValueError("there are no key-value caches to disable; call model.setup_caches first")
    if not model.caches_are_enabled():
        raise ValueError("the key-value caches are disabled already; disable_kv_cache does not nest")
    caching = [m for m in _with_caches(model) if m.cache_enabled]
    for attention in caching:
        attention.cache_enabled = False
    try:
        yield
    finally:
        for attention in caching:
            attention.cache_enabled = True


def delete_kv_caches(model: nn.Module) -> None:
    """Remove the model's key-value caches and free their memory.

    Raises:
        ValueError: the model has none.
    """
    if not model.caches_are_setup():
        raise ValueError("there are no key-value caches to delete; call model.setup_caches first")
    for attention in _with_caches(model):
        attention.kv_cache, attention.cache_enabled = None, False


def _with_caches(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if getattr(m, "kv_cache", None) is not None]


def slice_str_to_array(slice_str: str, length: int) -> list[bool]:
    """Which of ``length`` items a text selects: numbers ``"0,3,5"``, a slice ``"first:end:step"``, or all for ``""``.

    Raises:
        ValueError: anything else, or a number outside 0 .. length - 1.
    """
    if not slice_str.strip():
        return [True] * length
    try:
        chosen = _sliced(slice_str, length) if ":" in slice_str else {int(part) for part in slice_str.split(",")}
    except ValueError:
        raise ValueError(
            f"cannot read the selection {slice_str!r}; write numbers '0,3,5' or one slice 'first:end:step'"
        ) from None
    if not chosen <= set(range(length)):
        raise ValueError(f"the selection {slice_str!r} does not fit {length} items, which are numbered from 0")
    return [i in chosen for i in range(length)]


def _sliced(text: str, length: int) -> set[int]:
    """Not Python's slicing: what lies outside is kept for the caller to refuse, not cut off."""
    parts = text.split(":")
    first, end, step = (int(part) if part.strip() else default for part, default in zip(parts + [""], (0, length, 1)))
    if len(parts) > 3 or step < 1:
        raise ValueError
    return set(range(first, end, step))
