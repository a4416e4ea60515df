"""What a recipe needs besides the model: devices, precision, checkpoints, metrics, steps before and after the loop."""

from torchtune.training._distributed import (
    gather_cpu_state_dict,
    get_distributed_backend,
    get_full_optimizer_state_dict,
    get_shard_conditions,
    get_train_context,
    init_distributed,
    is_distributed,
    load_from_full_model_state_dict,
    load_from_full_optimizer_state_dict,
    shard_model,
)
from torchtune.training.activation_offloading import NoOpManager, OffloadActivations, get_act_offloading_ctx_manager
from torchtune.training.activations import apply_selective_activation_checkpointing
from torchtune.training.checkpointing import (
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
    Checkpointer,
    FormattedCheckpointFiles,
    FullModelHFCheckpointer,
    FullModelMetaCheckpointer,
    FullModelTorchTuneCheckpointer,
    ModelType,
    update_state_dict_for_classifier,
)
from torchtune.training.compile import compile_loss, compile_model
from torchtune.training.grads import scale_grads, scale_grads_
from torchtune.training.lr_schedulers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_lr,
)
from torchtune.training.memory import (
    VALID_BACKENDS_FOR_MEMORY_STATS,
    OptimizerInBackwardWrapper,
    cleanup_before_training,
    create_optim_in_bwd_wrapper,
    get_memory_stats,
    log_memory_stats,
    register_optim_in_bwd_hooks,
    set_activation_checkpointing,
)
from torchtune.training.model_util import (
    disable_dropout,
    set_torch_num_threads,
    validate_no_params_on_meta_device,
)
from torchtune.training.pooling import get_unmasked_sequence_lengths
from torchtune.training.precision import get_dtype, set_default_dtype, validate_expected_param_dtype
from torchtune.training.profiler import (
    DEFAULT_PROFILE_DIR,
    DEFAULT_PROFILER_ACTIVITIES,
    DEFAULT_SCHEDULE,
    DEFAULT_TRACE_OPTS,
    PROFILER_KEY,
    DummyProfiler,
    setup_torch_profiler,
)
from torchtune.training.quantization import get_quantizer_mode
from torchtune.training.seed import set_seed
from torchtune.utils import get_world_size_and_rank

__all__ = [
    "ADAPTER_CONFIG", "ADAPTER_KEY", "DATALOADER_KEY", "DEFAULT_PROFILER_ACTIVITIES", "DEFAULT_PROFILE_DIR",
    "DEFAULT_SCHEDULE", "DEFAULT_TRACE_OPTS", "EPOCHS_KEY", "MAX_STEPS_KEY", "MODEL_KEY", "OPT_KEY", "PROFILER_KEY",
    "RNG_KEY", "SEED_KEY", "STEPS_KEY", "TOTAL_EPOCHS_KEY", "VALID_BACKENDS_FOR_MEMORY_STATS", "VAL_DATALOADER_KEY",
    "Checkpointer", "DummyProfiler", "FormattedCheckpointFiles", "FullModelHFCheckpointer",
    "FullModelMetaCheckpointer", "FullModelTorchTuneCheckpointer", "ModelType", "NoOpManager", "OffloadActivations",
    "OptimizerInBackwardWrapper", "apply_selective_activation_checkpointing", "cleanup_before_training",
    "compile_loss", "compile_model", "create_optim_in_bwd_wrapper", "disable_dropout", "gather_cpu_state_dict",
    "get_act_offloading_ctx_manager", "get_constant_schedule_with_warmup", "get_cosine_schedule_with_warmup",
    "get_distributed_backend", "get_dtype", "get_full_optimizer_state_dict", "get_linear_schedule_with_warmup",
    "get_lr", "get_memory_stats", "get_quantizer_mode", "get_shard_conditions", "get_train_context",
    "get_unmasked_sequence_lengths", "get_world_size_and_rank", "init_distributed", "is_distributed",
    "load_from_full_model_state_dict", "load_from_full_optimizer_state_dict", "log_memory_stats",
    "register_optim_in_bwd_hooks", "scale_grads", "scale_grads_", "set_activation_checkpointing", "set_default_dtype",
    "set_seed", "set_torch_num_threads", "setup_torch_profiler", "shard_model", "update_state_dict_for_classifier",
    "validate_expected_param_dtype", "validate_no_params_on_meta_device",
]  # fmt: skip
