"""What recipes ask of a model with adapters: names, tensors, switching adapters off."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn

from torchtune.errors import CheckpointError
from torchtune.modules.moe import LoRAGroupedExperts
from torchtune.modules.peft._apply import adapted_layers
from torchtune.modules.peft.lora import LoRALinear

LORA_ATTN_MODULES = Literal["q_proj", "k_proj", "v_proj", "output_proj"]
_PAIRS = (*LoRALinear.adapted.values(), *LoRAGroupedExperts.adapted.values())
_ADAPTER_LEAVES = (*(name for pair in _PAIRS for name in pair), "magnitude")


@runtime_checkable
class AdapterModule(Protocol):
    """A module with parameters of an adapter."""

    def adapter_params(self) -> list[str]:
        """Their names, below the module."""


def get_lora_module_names(
    lora_attn_modules: list[LORA_ATTN_MODULES], apply_lora_to_mlp: bool, apply_lora_to_output: bool
) -> list[str]:
    """Last names of the linear layers that a config gives adapters: attention, then feed-forward, then output."""
    mlp = ["w1", "w2", "w3"] if apply_lora_to_mlp else []
    return [*lora_attn_modules, *mlp, *(["output"] if apply_lora_to_output else [])]


def get_adapter_params(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that belong to adapters, by name."""
    names = {
        f"{prefix}.{leaf}" if prefix else leaf
        for prefix, module in model.named_modules()
        if isinstance(module, AdapterModule)
        for leaf in module.adapter_params()
    }
    return {name: p for name, p in model.named_parameters() if name in names}


def set_trainable_params(model: nn.Module, adapter_params: Mapping[str, Any] | Iterable[str]) -> None:
    """Let the named parameters be trained, and no others."""
    wanted = set(adapter_params)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)


def get_adapter_state_dict(state_dict: Mapping[str, Any], device: str | None = "cpu") -> dict[str, Any]:
    """The tensors of a state dict that belong to adapters, on ``device`` (None: where they are)."""
    found = {name: tensor for name, tensor in state_dict.items() if name.endswith(_ADAPTER_LEAVES)}
    return found if device is None else {name: tensor.to(device) for name, tensor in found.items()}


def validate_missing_and_unexpected_for_lora(
    lora_attn_modules: list[LORA_ATTN_MODULES] | None = None,
    apply_lora_to_mlp: bool | None = None,
    apply_lora_to_output: bool | None = None,
    state_dict_keys: Iterable[str] | None = None,
    base_missing: Iterable[str] | None = None,
    base_unexpected: Iterable[str] | None = None,
    lora_missing: Iterable[str] | None = None,
    lora_unexpected: Iterable[str] | None = None,
) -> None:
    """Check what ``load_state_dict(strict=False)`` gave when a base model and its adapters were loaded one by one.

    Args:
        lora_attn_modules: with the next two, which layers have adapters; read when ``state_dict_keys`` is None.
        state_dict_keys: names of all tensors of the model.
        base_missing: names that the base model's checkpoint did not fill; those of adapters may be among them.
        lora_missing: names that the adapters' checkpoint did not fill; those of the base may be among them. None when
            there was no such checkpoint.

    Raises:
        CheckpointError: a tensor was filled by neither, or belongs to no layer.
    """
    if state_dict_keys is None:
        modules = get_lora_module_names(
            list(lora_attn_modules or ()), bool(apply_lora_to_mlp), bool(apply_lora_to_output)
        )
        ends = tuple(f".{module}.{leaf}" for module in modules for leaf in _ADAPTER_LEAVES)
        adapters = {name for name in (*(base_missing or ()), *(lora_missing or ())) if f".{name}".endswith(ends)}
    else:
        adapters = {name for name in state_dict_keys if name.endswith(_ADAPTER_LEAVES)}
    problems = {
        "the base model's checkpoint lacks": [name for name in base_missing or () if name not in adapters],
        "the base model's checkpoint has what no layer takes:": base_unexpected,
        "the adapters' checkpoint lacks": [name for name in lora_missing or () if name in adapters],
        "the adapters' checkpoint has what no layer takes:": lora_unexpected,
    }
    for what, names in problems.items():
        if names:
            raise CheckpointError(f"{what} {', '.join(sorted(names)[:5])}; do model and checkpoint fit each other?")


@contextmanager
def disable_adapter(model: nn.Module) -> Generator[None, None, None]:
    """Inside the ``with`` block the model is its frozen base."""
    layers = adapted_layers(model).values()
    before = [layer.disabled for layer in layers]
    for layer in layers:
        layer.disabled = True
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before):
            layer.disabled = disabled
