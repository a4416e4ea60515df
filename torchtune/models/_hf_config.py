"""A Hugging Face ``config.json`` that knows which of its keys were read, so that none is silently ignored."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from torchtune.errors import CheckpointError

# Keys that say nothing about what the model computes.
_WITHOUT_EFFECT = {
    "_attn_implementation", "_name_or_path", "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "dtype", "eos_token_id", "finetuning_task", "id2label",
    "initializer_range", "keys_to_ignore_at_inference", "label2id", "max_length", "min_length", "model_type",
    "num_labels", "output_attentions", "output_hidden_states", "output_past", "pad_token_id", "prefix",
    "pretraining_tp", "problem_type", "quantization_config", "return_dict", "return_dict_in_generate", "sep_token_id",
    "task_specific_params", "tokenizer_class", "torch_dtype", "torchscript", "transformers_version", "use_cache",
}  # fmt: skip
_FOREIGN_NOTES = ("_", "unsloth")  # what tools leave in a config begins so
# Samplers' settings that transformers 4 kept in every config.
_GENERATION = {
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "length_penalty", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores",
    "remove_invalid_values", "repetition_penalty", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
}  # fmt: skip


class HFConfig(Mapping[str, Any]):
    """The content of a ``config.json``; looking at a key marks it as read."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content, self._read = dict(content), set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def check_all_read(self) -> None:
        """Refuse what would change the model and was not read.

        Raises:
            CheckpointError: a key that has a value was not read and is not known to be without effect.
        """
        left = [key for key, value in self._content.items() if value and not self._is_known(key)]
        if left:
            near = difflib.get_close_matches(left[0], self._read, n=1)
            hint = f"; the nearest that is read is {near[0]!r}" if near else ""
            raise CheckpointError(
                f"config.json of model_type {self._content.get('model_type')!r} has {left[0]!r}: "
                f"{self._content[left[0]]!r}, which this model does not have{hint}. If it changes nothing about what "
                "the model computes, remove the key"
            )

    def _is_known(self, key: str) -> bool:
        return key in self._read | _WITHOUT_EFFECT | _GENERATION or key.startswith(_FOREIGN_NOTES)
