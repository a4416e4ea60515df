"""Scores of a trained model on tasks of EleutherAI's lm_eval.

    tune run eleuther_eval --config eleuther_evaluation
    tune run eleuther_eval --config eleuther_evaluation tasks=[hellaswag,gsm8k] limit=100

The scores are printed as a table, and written with all that lm_eval says of the run to `output_dir`.
"""

import logging
from typing import Any

import yaml

from torchtune import config, training
from torchtune.config.schema import EvalConfig
from torchtune.evaluation import evaluate, load_tasks, results_table, save_results
from torchtune.training.inference import load_for_inference
from torchtune.training.setup import start
from torchtune.utils import get_logger
from torchtune.utils.exit_codes import exits_cleanly

logger = logging.getLogger("torchtune.recipes.eleuther_eval")


class EleutherEvalRecipe:
    """Measures a model: ``setup``, then ``evaluate``, then ``report``."""

    def __init__(self, cfg: EvalConfig) -> None:
        self.cfg = cfg

    def setup(self) -> None:
        """Load the tasks, then the model."""
        cfg = self.cfg
        training.set_seed(cfg.seed, cfg.cudnn_deterministic_mode)
        self.tasks = load_tasks(
            cfg.tasks, cfg.include_path, seed=cfg.seed, confirm_run_unsafe_code=cfg.confirm_run_unsafe_code
        )
        self.model, self.tokenizer = load_for_inference(cfg)
        logger.info("Model is initialized with precision %s.", self.model.tok_embeddings.weight.dtype)

    def evaluate(self) -> dict[str, Any]:
        """The results, in lm_eval's form."""
        cfg = self.cfg
        return evaluate(
            self.model,
            self.tokenizer,
            self.tasks,
            max_seq_length=cfg.max_seq_length,
            batch_size=cfg.batch_size,
            enable_kv_cache=cfg.enable_kv_cache,
            limit=cfg.limit,
            apply_chat_template=cfg.chat_template or cfg.apply_chat_template,
            log_samples=cfg.log_samples,
        )

    def report(self, results: dict[str, Any]) -> None:
        """Print the scores, and write everything to ``output_dir``."""
        print(results_table(results), flush=True)
        results["config"] = yaml.safe_load(config.to_yaml(config.source_of(self.cfg)))
        logger.info("The results are in %s.", save_results(results, self.cfg.output_dir))


@config.parse
@exits_cleanly
def main(cfg: EvalConfig) -> None:
    """Evaluate a model."""
    start(cfg)
    config.log_config("EleutherEvalRecipe", config.source_of(cfg))
    recipe = EleutherEvalRecipe(cfg)
    recipe.setup()
    recipe.report(recipe.evaluate())


if __name__ == "__main__":
    get_logger("INFO")  # for what reading the config has to say, before its log_level is known
    exits_cleanly(main)()
