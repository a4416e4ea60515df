"""Scores of a model on the tasks of EleutherAI's lm_eval (https://github.com/EleutherAI/lm-evaluation-harness)."""

from torchtune.evaluation._tasks import evaluate, load_tasks, results_table, save_results

__all__ = ["evaluate", "load_tasks", "results_table", "save_results"]
