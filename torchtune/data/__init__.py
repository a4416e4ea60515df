"""From rows to batches: messages, prompt templates, padding."""

from torchtune.data._collate import (
    CROSS_ENTROPY_IGNORE_IDX,
    left_pad_sequence,
    padded_collate,
    padded_collate_dpo,
    padded_collate_packed,
    padded_collate_sft,
)
from torchtune.data._loader import StepLoader, validation_batches
from torchtune.data._message_transforms import (
    AlpacaToMessages,
    ChosenRejectedToMessages,
    InputOutputToMessages,
    OpenAIToMessages,
    ShareGPTToMessages,
)
from torchtune.data._messages import (
    MaskingStrategy,
    Message,
    Role,
    mask_messages,
    validate_messages,
)
from torchtune.data._prompt_templates import (
    ChatMLTemplate,
    GrammarErrorCorrectionTemplate,
    PromptTemplate,
    PromptTemplateInterface,
    QuestionAnswerTemplate,
    SummarizeTemplate,
)
from torchtune.data._stream_loader import StreamLoader
from torchtune.data._utils import (
    truncate,
)

__all__ = [
    "CROSS_ENTROPY_IGNORE_IDX", "AlpacaToMessages", "ChatMLTemplate", "ChosenRejectedToMessages",
    "GrammarErrorCorrectionTemplate", "InputOutputToMessages", "MaskingStrategy", "Message", "OpenAIToMessages",
    "PromptTemplate", "PromptTemplateInterface", "QuestionAnswerTemplate", "Role", "ShareGPTToMessages",
    "StepLoader", "StreamLoader", "SummarizeTemplate", "left_pad_sequence", "mask_messages", "padded_collate",
    "padded_collate_dpo", "padded_collate_packed", "padded_collate_sft", "truncate", "validate_messages",
    "validation_batches",
]  # fmt: skip
