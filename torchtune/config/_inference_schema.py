"""Every key of the recipes that use a trained model: its name, type, default and unit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torchtune.config._keys import AtLeast, Component, Count, Over, Portion, Threads, inert
from torchtune.config._problem import near
from torchtune.config._rules import Rule, Values, broken, device_name


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """What every recipe reads that uses a trained model. A field that holds a component is a config node."""

    recipe: str | None = None  # the recipe that this config is for, so that `tune run --config` alone is enough
    output_dir: str | None = None  # folder for results and logs

    model: Component
    tokenizer: Component
    checkpointer: Component
    quantizer: Component | None = None  # quantizes the weights as they are loaded; a quantized folder needs none

    seed: Annotated[int, AtLeast(0)] | None = None  # None: one is drawn and logged
    device: str | None = None  # "cpu", "cuda", "cuda:1", ...; None: the best there is
    dtype: Literal["bf16", "fp32", "fp16", "fp64"] = "bf16"
    num_threads: Threads | None = None  # CPU threads; None: torch's choice
    cudnn_deterministic_mode: Literal["default", "warn", "error", 0, 1, 2] | bool | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"

    @staticmethod
    def contradictions(v: Values) -> Iterator[tuple[str, str]]:
        """Pairs of (key, message) for settings that cannot work together."""
        yield from broken((device_name,), v)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(InferenceConfig):
    """What the generation recipe reads beyond ``InferenceConfig``."""

    prompt: str | Mapping[str, Any] | None = None  # a text to continue, or `user` and `system` of a dialogue to answer
    prompts_file: str | None = None  # one user message per line, or JSON lines with `user` and perhaps `system`
    batch_size: Count = 8  # answers written at the same time
    num_samples: Count = 1  # answers per prompt
    max_new_tokens: Count = 300
    temperature: Annotated[float, AtLeast(0)] = 0.6  # 0: the likeliest token each time
    top_k: Count | None = None  # only this many of the likeliest tokens are drawn from
    top_p: Annotated[float, Portion()] | None = None  # only the likeliest tokens that sum up to this probability
    stop: list[str] | None = None  # an answer ends before the first of these
    enable_kv_cache: bool = True  # False computes everything anew for each token
    compile: bool | None = None  # None: on a GPU, for a file of prompts, since it takes longer than one answer

    @staticmethod
    def contradictions(v: Values) -> Iterator[tuple[str, str]]:
        """Pairs of (key, message) for settings that cannot work together."""
        yield from InferenceConfig.contradictions(v)
        yield from broken(_GENERATE_RULES, v)


def _prompt(v: Values) -> tuple[str, str] | None:
    prompt = v["prompt"]
    if not isinstance(prompt, Mapping):
        return None
    for key, text in prompt.items():
        if key not in ("system", "user"):
            return f"prompt.{key}", f"prompt takes system and user, found {key!r}.{near(str(key), ('system', 'user'))}"
        if text is not None and not isinstance(text, str):
            return f"prompt.{key}", f"prompt.{key} must be text or null, found {text!r}"
    return None


def _one_source(v: Values) -> tuple[str, str] | None:
    prompt = v["prompt"]
    asked = prompt.get("user") if isinstance(prompt, Mapping) else prompt
    if v["prompts_file"] is None and asked is None:
        return "prompt", "there is nothing to answer: set prompt.user, or prompts_file"
    if v["prompts_file"] is not None and asked is not None:
        return "prompts_file", "prompts_file and a prompt are both set; leave out one: ~prompts_file or ~prompt"
    return None


def _results_folder(v: Values) -> tuple[str, str] | None:
    if v["prompts_file"] is not None and v["output_dir"] is None:
        return "prompts_file", "the answers to prompts_file are written to output_dir; set that too"
    return None


def _same_samples(v: Values) -> tuple[str, str] | None:
    if v["num_samples"] > 1 and v["temperature"] == 0:
        return "num_samples", "with temperature 0 all samples are the same; set num_samples: 1 or a higher temperature"
    return None


_GENERATE_RULES: tuple[Rule, ...] = (_prompt, _one_source, _results_folder, _same_samples)


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig(InferenceConfig):
    """What the quantization recipe reads; the quantized model gets a folder of its own in ``output_dir``."""

    output_dir: str
    quantizer: Component
    tokenizer: Component | None = inert(None, "the tokenizer's files go along with the weights as they are")


@dataclass(frozen=True, kw_only=True)
class EvalConfig(InferenceConfig):
    """What the evaluation recipe reads beyond ``InferenceConfig``; lm_eval's own words where it has them."""

    output_dir: str
    seed: Annotated[int, AtLeast(0)] = 1234  # of examples in prompts and sampled answers; lm_eval's own

    tasks: list[str]  # names of tasks, groups or tags, or paths of a task's YAML
    include_path: str | None = None  # folder with the YAML of one's own tasks
    limit: Annotated[float, Over(0)] | None = None  # samples per task, or below 1 the share of them; None: all
    max_seq_length: Count = 4096  # tokens; of a longer text only the end is read
    batch_size: Count = 8  # texts that the model reads at the same time
    enable_kv_cache: bool = True  # False computes everything anew for each token of tasks that generate
    chat_template: bool = False  # put prompts as a dialogue, in the tokenizer's form
    apply_chat_template: bool = False  # the same, by lm_eval's name
    log_samples: bool = False  # write every prompt, answer and score as well
    confirm_run_unsafe_code: bool = False  # run tasks that execute what the model wrote
