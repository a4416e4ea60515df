"""Text from a model: documented functions over tensors, and ``decode`` over lists of token ids."""

from torchtune.generation._decode import check_prompts, decode, stream
from torchtune.generation._generation import generate, generate_next_token
from torchtune.generation._masks import get_causal_mask_from_padding_mask, get_position_ids_from_padding_mask
from torchtune.generation._prompts import Prompt, as_prompt, read_prompts
from torchtune.generation._sampling import sample
from torchtune.generation._text import answer_text, contains_stop, encode_prompt

__all__ = [
    "Prompt", "answer_text", "as_prompt", "check_prompts", "contains_stop", "decode", "encode_prompt", "generate",
    "generate_next_token", "get_causal_mask_from_padding_mask", "get_position_ids_from_padding_mask", "read_prompts",
    "sample", "stream",
]  # fmt: skip
