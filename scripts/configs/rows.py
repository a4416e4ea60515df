"""One row for each shipped config. The values are torchtune's, so that a run repeats what its users know; those that
are not are listed in docs/configs.md.
"""

from configs import models as m
from configs.kinds import PAGED, Evaluation, adapters, anywhere, many, single

_1B_3B = {"batch_size": 4}
_LOW_MEMORY = {"optimizer": PAGED, "activation_offloading": True}
_SLOW = {"lr": "1e-5", "warmup_steps": 100}
_70B = {"cpu_offload": True, "fused": False, "processes": 8}
_KEPT = {"activation_checkpointing": False}
_SMALL_LORA = {"rank": 64, **_1B_3B}
_LARGE_LORA = {"rank": 16, "dataset": "alpaca_dataset", "processes": 8}
_70B_LORA = {**_LARGE_LORA, "gradient_accumulation_steps": 1}
_ALONE = {"save_adapter_weights_only": True}

_LLAMA = (
    many("llama2/7B_full", m.LLAMA2_7B, processes=4),
    single("llama2/7B_full_low_memory", m.LLAMA2_7B, **_LOW_MEMORY, **_SLOW),
    many("llama2/13B_full", m.LLAMA2_13B, processes=4),
    single("code_llama2/7B_full_low_memory", m.CODE_LLAMA2_7B, **_LOW_MEMORY),
    many("llama3/8B_full", m.LLAMA3_8B, processes=4),
    single("llama3/8B_full_single_device", m.LLAMA3_8B, **_SLOW),
    many("llama3/70B_full", m.LLAMA3_70B, **_70B),
    many("llama3_1/8B_full", m.LLAMA3_1_8B),
    single("llama3_1/8B_full_single_device", m.LLAMA3_1_8B),
    many("llama3_1/70B_full", m.LLAMA3_1_70B, **_70B),
    many("llama3_2/1B_full", m.LLAMA3_2_1B, gradient_accumulation_steps=8, **_1B_3B, **_KEPT),
    single("llama3_2/1B_full_single_device", m.LLAMA3_2_1B, **_1B_3B, **_KEPT),
    many("llama3_2/3B_full", m.LLAMA3_2_3B, gradient_accumulation_steps=8, **_1B_3B),
    single("llama3_2/3B_full_single_device", m.LLAMA3_2_3B, **_1B_3B),
    many("llama3_3/70B_full", m.LLAMA3_3_70B, **_70B),
    many(
        "llama3_3/70B_full_multinode",
        m.LLAMA3_3_70B,
        output_dir="llama3_3_70B/full",
        **{**_70B, "cpu_offload": False, "fused": True},
        batch_size=4,
        max_seq_len=1024,
        packed=True,
        compile=True,
        nodes=2,
    ),
    adapters("llama2/7B_lora_single_device", m.LLAMA2_7B),
    adapters("llama2/7B_qlora_single_device", m.LLAMA2_7B),
    adapters("llama2/13B_qlora_single_device", m.LLAMA2_13B),
    adapters("llama2/7B_lora", m.LLAMA2_7B, **_KEPT),
    adapters("llama2/7B_qlora", m.LLAMA2_7B),
    adapters("llama2/13B_lora", m.LLAMA2_13B, apply_lora_to_output=True, lr="2e-4", processes=4, **_KEPT),
    adapters("llama2/70B_lora", m.LLAMA2_70B, **_70B_LORA),
    adapters("llama2/70B_qlora", m.LLAMA2_70B, **_70B_LORA),
    adapters("code_llama2/7B_lora_single_device", m.CODE_LLAMA2_7B),
    adapters("code_llama2/7B_qlora_single_device", m.CODE_LLAMA2_7B),
    adapters("llama3/8B_lora_single_device", m.LLAMA3_8B),
    adapters("llama3/8B_qlora_single_device", m.LLAMA3_8B),
    adapters("llama3/8B_dora_single_device", m.LLAMA3_8B, use_dora=True),
    adapters("llama3/8B_qdora_single_device", m.LLAMA3_8B, use_dora=True, quantize_base=True),
    adapters("llama3/8B_lora", m.LLAMA3_8B, **_KEPT),
    adapters("llama3/8B_dora", m.LLAMA3_8B, gradient_accumulation_steps=1, use_dora=True, **_KEPT),
    adapters("llama3/70B_lora", m.LLAMA3_70B, **_70B_LORA),
    adapters("llama3_1/8B_lora_single_device", m.LLAMA3_1_8B),
    adapters("llama3_1/8B_qlora_single_device", m.LLAMA3_1_8B),
    adapters("llama3_1/8B_lora", m.LLAMA3_1_8B, **_KEPT),
    adapters("llama3_1/70B_lora", m.LLAMA3_1_70B, **_70B_LORA, **_ALONE),
    adapters("llama3_1/405B_qlora", m.LLAMA3_1_405B, batch_size=1, **_LARGE_LORA, **_ALONE),
    adapters("llama3_2/1B_lora_single_device", m.LLAMA3_2_1B, **_SMALL_LORA, **_KEPT),
    adapters("llama3_2/1B_qlora_single_device", m.LLAMA3_2_1B, **_SMALL_LORA, **_KEPT),
    adapters("llama3_2/1B_lora", m.LLAMA3_2_1B, **_SMALL_LORA, **_KEPT),
    adapters("llama3_2/3B_lora_single_device", m.LLAMA3_2_3B, **_SMALL_LORA),
    adapters("llama3_2/3B_qlora_single_device", m.LLAMA3_2_3B, **_SMALL_LORA),
    adapters("llama3_2/3B_lora", m.LLAMA3_2_3B, **_SMALL_LORA, **_KEPT),
    adapters("llama3_3/70B_lora", m.LLAMA3_3_70B, **_70B_LORA, **_ALONE),
    adapters("llama3_3/70B_qlora", m.LLAMA3_3_70B, **_70B_LORA, **_ALONE),
)

_GENTLE = {"lr": "5e-6"}
_MISTRAL_LORA = {"rank": 64, "lora_alpha": 16, "dataset": "alpaca_dataset", "batch_size": 4, "lr": "2e-5"}

_MISTRAL = (
    many("mistral/7B_full", m.MISTRAL_7B, processes=4, **_GENTLE),
    single("mistral/7B_full_low_memory", m.MISTRAL_7B, **_LOW_MEMORY, **_GENTLE),
    adapters("mistral/7B_lora_single_device", m.MISTRAL_7B, apply_lora_to_output=True, **_MISTRAL_LORA),
    adapters("mistral/7B_qlora_single_device", m.MISTRAL_7B, **_MISTRAL_LORA),
    adapters(
        "mistral/7B_lora",
        m.MISTRAL_7B,
        apply_lora_to_output=True,
        gradient_accumulation_steps=1,
        **_MISTRAL_LORA,
    ),
)

_GEMMA_LORA = {"rank": 64, "dataset": "alpaca_dataset", "batch_size": 4, "lr": "2e-5", "warmup_steps": 10}
_GEMMA_LORA_MANY = {**_GEMMA_LORA, "gradient_accumulation_steps": 1, "processes": 4}
# Of the larger ones the adapters are small where one device has to hold them.
_GEMMA_LORA_SINGLE = {**_GEMMA_LORA, "rank": 8, "batch_size": 8, "lr": "5e-5"}

_GEMMA = (
    many("gemma/2B_full", m.GEMMA_2B, processes=4),
    many("gemma/7B_full", m.GEMMA_7B, batch_size=1, processes=4),
    many("gemma2/2B_full", m.GEMMA2_2B, processes=4),
    many("gemma2/9B_full", m.GEMMA2_9B, batch_size=1, processes=4),
    many("gemma2/27B_full", m.GEMMA2_27B, batch_size=1, processes=4),
    adapters("gemma/2B_lora_single_device", m.GEMMA_2B, **_GEMMA_LORA),
    adapters("gemma/2B_qlora_single_device", m.GEMMA_2B, **_GEMMA_LORA),
    adapters("gemma/2B_lora", m.GEMMA_2B, **_GEMMA_LORA_MANY),
    adapters("gemma/7B_lora_single_device", m.GEMMA_7B, **_GEMMA_LORA_SINGLE),
    adapters("gemma/7B_qlora_single_device", m.GEMMA_7B, **_GEMMA_LORA),
    adapters("gemma/7B_lora", m.GEMMA_7B, **_GEMMA_LORA_MANY),
    adapters("gemma2/2B_lora_single_device", m.GEMMA2_2B, **{**_GEMMA_LORA, "batch_size": 8}),
    adapters("gemma2/2B_qlora_single_device", m.GEMMA2_2B, **_GEMMA_LORA),
    adapters("gemma2/2B_lora", m.GEMMA2_2B, **_GEMMA_LORA_MANY),
    adapters("gemma2/9B_lora_single_device", m.GEMMA2_9B, **_GEMMA_LORA_SINGLE),
    adapters("gemma2/9B_qlora_single_device", m.GEMMA2_9B, **_GEMMA_LORA),
    adapters("gemma2/9B_lora", m.GEMMA2_9B, **_GEMMA_LORA_MANY),
    adapters("gemma2/27B_lora_single_device", m.GEMMA2_27B, **{**_GEMMA_LORA_SINGLE, "batch_size": 2}),
    adapters("gemma2/27B_qlora_single_device", m.GEMMA2_27B, **_GEMMA_LORA),
    adapters("gemma2/27B_lora", m.GEMMA2_27B, **_GEMMA_LORA_MANY),
)

_CLEANED = {"dataset": "alpaca_cleaned_dataset"}
_CLEANED_8 = {**_CLEANED, "gradient_accumulation_steps": 8}

_PHI = (
    many("phi3/mini_full", m.PHI3_MINI, processes=4, **_CLEANED_8, **_GENTLE),
    single("phi3/mini_full_low_memory", m.PHI3_MINI, **_LOW_MEMORY, **_CLEANED, **_GENTLE),
    adapters("phi3/mini_lora_single_device", m.PHI3_MINI),
    adapters("phi3/mini_qlora_single_device", m.PHI3_MINI),
    adapters("phi3/mini_lora", m.PHI3_MINI, **_KEPT),
    many("phi4/14B_full", m.PHI4_14B, processes=4, **_CLEANED_8, **_GENTLE),
    single("phi4/14B_full_low_memory", m.PHI4_14B, **_LOW_MEMORY, **_CLEANED, **_GENTLE),
    adapters("phi4/14B_lora_single_device", m.PHI4_14B),
    adapters("phi4/14B_qlora_single_device", m.PHI4_14B),
    adapters("phi4/14B_lora", m.PHI4_14B, **_KEPT),
)

_PAGED = {"optimizer": PAGED, **_CLEANED}
_IN_MEMORY = {"optimizer": "torch.optim.AdamW", "fused": True, "optimizer_in_bwd": False, **_CLEANED}
_QWEN_LORA = {"rank": 32, "lr": "2e-3"}

_QWEN = (
    many("qwen2/0.5B_full", m.QWEN2_0_5B, processes=4, **_CLEANED_8, **_KEPT),
    single("qwen2/0.5B_full_single_device", m.QWEN2_0_5B, gradient_accumulation_steps=8, **_IN_MEMORY),
    many("qwen2/1.5B_full", m.QWEN2_1_5B, processes=4, **_CLEANED, **_KEPT),
    single("qwen2/1.5B_full_single_device", m.QWEN2_1_5B, **_PAGED),
    many("qwen2/7B_full", m.QWEN2_7B, processes=4, **_CLEANED_8, **_GENTLE),
    single("qwen2/7B_full_single_device", m.QWEN2_7B, **_PAGED, **_GENTLE),
    adapters("qwen2/0.5B_lora_single_device", m.QWEN2_0_5B, batch_size=4, **_QWEN_LORA),
    adapters("qwen2/0.5B_lora", m.QWEN2_0_5B, batch_size=4, **_QWEN_LORA),
    adapters("qwen2/1.5B_lora_single_device", m.QWEN2_1_5B, **_QWEN_LORA),
    adapters("qwen2/1.5B_lora", m.QWEN2_1_5B, **_QWEN_LORA),
    adapters("qwen2/7B_lora_single_device", m.QWEN2_7B),
    adapters("qwen2/7B_lora", m.QWEN2_7B, **_KEPT),
    many("qwen2_5/0.5B_full", m.QWEN2_5_0_5B, **_CLEANED_8, **_KEPT),
    single("qwen2_5/0.5B_full_single_device", m.QWEN2_5_0_5B, gradient_accumulation_steps=8, **_IN_MEMORY, **_KEPT),
    many("qwen2_5/1.5B_full", m.QWEN2_5_1_5B, **_CLEANED),
    single("qwen2_5/1.5B_full_single_device", m.QWEN2_5_1_5B, batch_size=4, **_PAGED),
    many("qwen2_5/3B_full", m.QWEN2_5_3B, **_CLEANED_8, **_GENTLE),
    single("qwen2_5/3B_full_single_device", m.QWEN2_5_3B, **_PAGED, **_GENTLE),
    many("qwen2_5/7B_full", m.QWEN2_5_7B, **_CLEANED_8, **_GENTLE),
    single("qwen2_5/7B_full_single_device", m.QWEN2_5_7B, **_PAGED, **_GENTLE),
    adapters("qwen2_5/0.5B_lora_single_device", m.QWEN2_5_0_5B, **_QWEN_LORA, **_KEPT),
    adapters("qwen2_5/0.5B_lora", m.QWEN2_5_0_5B, **_QWEN_LORA, **_KEPT),
    adapters("qwen2_5/1.5B_lora_single_device", m.QWEN2_5_1_5B, **_QWEN_LORA, **_KEPT),
    adapters("qwen2_5/1.5B_lora", m.QWEN2_5_1_5B, **_QWEN_LORA, **_KEPT),
    adapters("qwen2_5/3B_lora_single_device", m.QWEN2_5_3B),
    adapters("qwen2_5/3B_lora", m.QWEN2_5_3B, **_KEPT),
    adapters("qwen2_5/7B_lora_single_device", m.QWEN2_5_7B),
    adapters("qwen2_5/7B_lora", m.QWEN2_5_7B, **_KEPT),
    adapters("qwen2_5/14B_lora_single_device", m.QWEN2_5_14B),
    adapters("qwen2_5/32B_lora", m.QWEN2_5_32B, processes=8, **_KEPT),
    adapters("qwen2_5/72B_lora", m.QWEN2_5_72B, dataset="alpaca_dataset", gradient_accumulation_steps=1, processes=8),
)

_QWEN3_LORA = {"rank": 32, "lr": "1e-4", **_KEPT}

_QWEN3 = (
    many("qwen3/0.6B_full", m.QWEN3_0_6B, **_CLEANED_8, **_KEPT),
    single("qwen3/0.6B_full_single_device", m.QWEN3_0_6B, gradient_accumulation_steps=8, **_IN_MEMORY, **_KEPT),
    many("qwen3/1.7B_full", m.QWEN3_1_7B, **_CLEANED),
    single("qwen3/1.7B_full_single_device", m.QWEN3_1_7B, batch_size=4, **_IN_MEMORY),
    many("qwen3/4B_full", m.QWEN3_4B, **_CLEANED_8, **_GENTLE),
    single("qwen3/4B_full_single_device", m.QWEN3_4B, **_IN_MEMORY, **_GENTLE),
    many("qwen3/8B_full", m.QWEN3_8B, processes=4, **_CLEANED_8, **_GENTLE),
    single("qwen3/8B_full_single_device", m.QWEN3_8B, **_PAGED, **_GENTLE),
    adapters("qwen3/0.6B_lora_single_device", m.QWEN3_0_6B, **_QWEN3_LORA),
    adapters("qwen3/0.6B_lora", m.QWEN3_0_6B, **_QWEN3_LORA),
    adapters("qwen3/1.7B_lora_single_device", m.QWEN3_1_7B, **_QWEN3_LORA),
    adapters("qwen3/1.7B_lora", m.QWEN3_1_7B, **_QWEN3_LORA),
    adapters("qwen3/4B_lora_single_device", m.QWEN3_4B),
    adapters("qwen3/4B_lora", m.QWEN3_4B, **_KEPT),
    adapters("qwen3/8B_lora_single_device", m.QWEN3_8B),
    adapters("qwen3/8B_lora", m.QWEN3_8B, processes=4, **_KEPT),
    adapters("qwen3/14B_lora_single_device", m.QWEN3_14B),
    adapters("qwen3/32B_lora", m.QWEN3_32B, processes=4, **_KEPT),
)

_AUTO = (
    anywhere("auto/full", **_CLEANED),
    anywhere("auto/lora"),
    anywhere("auto/qlora"),
)

_EVALUATIONS = (
    Evaluation("auto/evaluation", m.ANY, "auto"),
    Evaluation("eleuther_evaluation", m.LLAMA2_7B, "llama2_7B"),
    Evaluation("code_llama2/evaluation", m.CODE_LLAMA2_7B, "code_llama2_7B"),
    Evaluation("llama3_1/evaluation", m.LLAMA3_1_8B, "llama3_1_8B"),
    Evaluation("llama3_2/evaluation", m.LLAMA3_2_3B, "llama3_2_3B"),
    Evaluation("mistral/evaluation", m.MISTRAL_7B, "mistral_7B"),
    Evaluation("gemma/evaluation", m.GEMMA_2B, "gemma_2B"),
    Evaluation("phi3/evaluation", m.PHI3_MINI, "phi3_mini"),
    Evaluation("phi4/evaluation", m.PHI4_14B, "phi4_14B"),
    Evaluation("qwen2/evaluation", m.QWEN2_7B, "qwen2_7B"),
    Evaluation("qwen2_5/evaluation", m.QWEN2_5_0_5B, "qwen2_5_0_5B"),
    Evaluation("qwen3/evaluation", m.QWEN3_0_6B, "qwen3_0_6B"),
)

ROWS = (*_AUTO, *_LLAMA, *_MISTRAL, *_GEMMA, *_PHI, *_QWEN, *_QWEN3, *_EVALUATIONS)
