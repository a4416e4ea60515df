"""Parameter-efficient fine-tuning: low-rank adapters as a change to a finished model."""

from torchtune.modules.peft._apply import (
    adapted_layers,
    adapter_names,
    apply_lora,
    initial_adapters,
    whole_trained_names,
)
from torchtune.modules.peft._merge import get_merged_lora_ckpt, merged_weight, rank_of
from torchtune.modules.peft._spec import AdapterSpec, adapter_spec
from torchtune.modules.peft._utils import (
    LORA_ATTN_MODULES,
    AdapterModule,
    disable_adapter,
    get_adapter_params,
    get_adapter_state_dict,
    get_lora_module_names,
    set_trainable_params,
    validate_missing_and_unexpected_for_lora,
)
from torchtune.modules.peft.dora import DoRALinear
from torchtune.modules.peft.lora import LoRALinear, TrainableParams

__all__ = [
    "LORA_ATTN_MODULES",
    "AdapterModule",
    "AdapterSpec",
    "DoRALinear",
    "LoRALinear",
    "TrainableParams",
    "adapted_layers",
    "adapter_names",
    "adapter_spec",
    "apply_lora",
    "disable_adapter",
    "get_adapter_params",
    "get_adapter_state_dict",
    "get_lora_module_names",
    "get_merged_lora_ckpt",
    "initial_adapters",
    "merged_weight",
    "rank_of",
    "set_trainable_params",
    "validate_missing_and_unexpected_for_lora",
    "whole_trained_names",
]
