"""A Hugging Face ``config.json`` that knows which of its keys were read, so that none is silently ignored."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torchtune.errors import CheckpointError

# Keys that say nothing about what the model computes.
_WITHOUT_EFFECT = {
    "_attn_implementation", "_name_or_path", "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "decoder_start_token_id", "dtype", "eos_token_id", "finetuning_task", "id2label",
    "initializer_range", "is_llama_config", "keys_to_ignore_at_inference", "label2id", "max_length", "min_length",
    "model_type", "num_labels", "output_attentions", "output_hidden_states", "output_past", "pad_token_id", "prefix",
    "pretraining_tp", "problem_type", "quantization_config", "return_dict", "return_dict_in_generate", "sep_token_id",
    "task_specific_params", "tokenizer_class", "torch_dtype", "torchscript", "transformers.js_config",
    "transformers_version", "use_cache",
}  # fmt: skip
_FOREIGN_NOTES = ("_", "unsloth")  # what tools leave in a config begins so
# Samplers' settings that transformers 4 kept in every config.
_GENERATION = {
    "bad_words_ids", "begin_suppress_tokens", "cache_implementation", "diversity_penalty", "do_sample",
    "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_scores", "remove_invalid_values", "repetition_penalty", "suppress_tokens",
    "temperature", "top_k", "top_p", "typical_p",
}  # fmt: skip
# By ``model_type``: what transformers' config class assumes for a key that a file lacks, where that is not what is read
# from its absence here (https://github.com/huggingface/transformers/tree/main/src/transformers/models). Version 4 left
# out what its base class assumed as well, which is why Gemma's files do not say that they are tied.
_GEMMA = {"head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True}
_GEMMA2 = _GEMMA | {"query_pre_attn_scalar": 256, "sliding_window": 4096}
# The larger Gemma 3 read images too, and what their files say of the language model is nearly all left out.
_GEMMA3 = _GEMMA2 | {
    "max_position_embeddings": 131_072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 262_208,
}
_ASSUMED: dict[str, dict[str, Any]] = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA2 | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": _GEMMA3,
    "gpt_oss": {
        "attention_bias": True,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 4096,
            "truncate": False,
        },
        "rope_theta": 150_000.0,
        "sliding_window": 128,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
    },
    "llama4_text": {
        "attention_chunk_size": 8192,
        "attn_scale": 0.1,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
        "head_dim": 128,
        "interleave_moe_layer_step": 1,
        "intermediate_size_mlp": 16_384,
        "no_rope_layer_interval": 4,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "use_qk_norm": True,
    },
    "ministral": {"sliding_window": 4096},
    "mistral": {"sliding_window": 4096},
    "mixtral": {"rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0},
    "olmo2": {"rms_norm_eps": 1e-5},
    "olmo3": {"rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "sliding_window": 4096},
    "phi3": {"rms_norm_eps": 1e-5},
    "qwen2": {"sliding_window": 4096},
    "qwen3": {"head_dim": 128, "sliding_window": 4096},
    "qwen3_moe": {"sliding_window": 4096},
    "smollm3": {"rope_theta": 2_000_000.0, "tie_word_embeddings": True},
}
_OF_EACH_LAYER = ("layer_types", "no_rope_layers")  # lists with an entry for each layer


class HFConfig(Mapping[str, Any]):
    """The content of a ``config.json``; looking at a key marks it as read.

    A key that is absent has the value that transformers assumes then, if that is a special one of the model's type.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content, self._read = dict(content), set()
        self._assumed = _ASSUMED.get(self._content.get("model_type"), {})

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return self._content[key] if key in self._content else self._assumed[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def check_lists(self) -> None:
        """Refuse lists that do not say something of each layer.

        Raises:
            CheckpointError: one is shorter or longer than the number of layers.
        """
        layers = self._content.get("num_hidden_layers")
        for key in _OF_EACH_LAYER:
            found = self._content.get(key)
            if found and layers is not None and len(found) != layers:
                raise CheckpointError(
                    f"config.json's {key} has {len(found)} entries, and there are {layers} layers (num_hidden_layers); "
                    "it needs one for each"
                )

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


def layer_types(config: Mapping[str, Any], usual: Sequence[str]) -> list[str]:
    """The type of each layer.

    Args:
        usual: the types, by turns, of a config that does not say; it may have these only.

    Raises:
        CheckpointError: it has others.
    """
    found = config.get("layer_types") or [usual[i % len(usual)] for i in range(config["num_hidden_layers"])]
    if unknown := sorted(set(found) - set(usual)):
        raise CheckpointError(f"config.json has layers of the type {unknown}; known are {sorted(set(usual))}")
    return found
