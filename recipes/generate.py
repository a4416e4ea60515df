"""Answers of a trained model to one prompt or to a file of them.

    tune run generate --config generation prompt.user="Tell me a joke."
    tune run generate --config generation prompts_file=questions.jsonl ~prompt

Prompts of similar length are answered together, as many at a time as `batch_size` says.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch

from torchtune import config, training
from torchtune.config.schema import GenerateConfig
from torchtune.generation import (
    answer_text,
    as_prompt,
    check_prompts,
    contains_stop,
    decode,
    encode_prompt,
    read_prompts,
)
from torchtune.training.inference import load_for_inference
from torchtune.training.setup import start
from torchtune.utils import get_logger
from torchtune.utils.exit_codes import exits_cleanly

logger = logging.getLogger("torchtune.recipes.generate")


class GenerateRecipe:
    """Asks a model: ``setup``, then ``generate``, then ``report``."""

    def __init__(self, cfg: GenerateConfig) -> None:
        self.cfg = cfg

    def setup(self) -> None:
        """Load the model and the prompts."""
        cfg = self.cfg
        self.prompts = self._read_prompts()
        seed = training.set_seed(cfg.seed, cfg.cudnn_deterministic_mode)
        self.model, self.tokenizer = load_for_inference(cfg)
        self.device = self.model.tok_embeddings.weight.device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        logger.info("Model is initialized with precision %s.", training.get_dtype(cfg.dtype, self.device))

    def _read_prompts(self) -> list[Any]:
        """Each as the config has it: text, or a mapping with ``user`` and perhaps ``system``."""
        cfg = self.cfg
        if cfg.prompts_file is None:
            return [cfg.prompt]
        return read_prompts(cfg.prompts_file, (cfg.prompt or {}).get("system"))

    def generate(self) -> list[list[str]]:
        """``num_samples`` answers to each prompt."""
        cfg = self.cfg
        ids = [encode_prompt(self.tokenizer, as_prompt(prompt)) for prompt in self.prompts]
        check_prompts(self.model, ids, cfg.max_new_tokens)
        order = sorted((i for i in range(len(ids)) for _ in range(cfg.num_samples)), key=lambda i: len(ids[i]))
        answers: list[list[str]] = [[] for _ in ids]
        written, started = 0, time.perf_counter()
        for first in range(0, len(order), cfg.batch_size):
            batch = order[first : first + cfg.batch_size]
            tokens = self.decode([ids[i] for i in batch], cache_tokens=max(map(len, ids)) + cfg.max_new_tokens)
            written += sum(map(len, tokens))
            for i, answer in zip(batch, tokens):
                answers[i].append(answer_text(self.tokenizer, answer, cfg.stop or ()))
        self.measure(written, time.perf_counter() - started)
        return answers

    def decode(self, prompts: list[list[int]], cache_tokens: int) -> list[list[int]]:
        """The new tokens of a batch of prompts."""
        cfg = self.cfg
        many_on_gpu = self.device.type == "cuda" and cfg.prompts_file is not None
        return decode(
            self.model,
            prompts,
            max_new_tokens=cfg.max_new_tokens,
            temperature=cfg.temperature,
            top_k=cfg.top_k,
            top_p=cfg.top_p,
            stop_tokens=self.tokenizer.stop_tokens,
            ends=contains_stop(self.tokenizer, cfg.stop or ()),
            generator=self.generator,
            enable_kv_cache=cfg.enable_kv_cache,
            cache_tokens=cache_tokens,
            compile=many_on_gpu if cfg.compile is None else cfg.compile,
        )

    def measure(self, num_tokens: int, seconds: float) -> None:
        """Log the speed, and the memory that it took."""
        logger.info("%d tokens in %.2f s: %.2f tokens per second.", num_tokens, seconds, num_tokens / seconds)
        training.log_memory_stats(training.get_memory_stats(self.device), "Memory:")

    def report(self, answers: list[list[str]]) -> None:
        """Print the answers to a prompt; write those to a file of prompts."""
        cfg = self.cfg
        if cfg.prompts_file is None:
            print("\n\n".join(answers[0]), flush=True)
            return
        path = Path(cfg.output_dir).expanduser() / "generations.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (json.dumps({**row, "answers": texts}, ensure_ascii=False) for row, texts in zip(self.prompts, answers))
        path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        logger.info("The answers to %d prompts are in %s.", len(answers), path)


@config.parse
@exits_cleanly
def main(cfg: GenerateConfig) -> None:
    """Generate text."""
    start(cfg)
    config.log_config("GenerateRecipe", config.source_of(cfg))
    recipe = GenerateRecipe(cfg)
    recipe.setup()
    recipe.report(recipe.generate())


if __name__ == "__main__":
    get_logger("INFO")  # for what reading the config has to say, before its log_level is known
    exits_cleanly(main)()
