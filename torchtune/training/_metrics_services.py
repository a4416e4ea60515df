"""Metric loggers of services with packages of their own, each imported only when its logger is made."""

import os
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from torchtune import config as config_files
from torchtune.config._redact import public_container
from torchtune.errors import MissingDependency
from torchtune.training._metrics_base import MetricLoggerInterface, flatten_dict, plain, save_config
from torchtune.utils._world import is_rank_zero

# MAX_PARAMS_TAGS_PER_BATCH and MAX_PARAM_VAL_LENGTH in
# https://github.com/mlflow/mlflow/blob/master/mlflow/utils/validation.py
_MLFLOW_PARAMS_PER_CALL, _MLFLOW_PARAM_LENGTH = 100, 6000


class WandBLogger(MetricLoggerInterface):
    """Logs to Weights & Biases, into the run that is active or a new one; ``global_step`` is the axis of all metrics.

    https://docs.wandb.ai/ref/python/

    Args:
        project: so ``entity`` and ``group``; see ``wandb.init``.
        log_dir: where its local files go; None is the current folder.
        kwargs: for ``wandb.init``.

    Raises:
        MissingDependency: wandb is not installed.
    """

    def __init__(
        self,
        project: str | None = "torchtune",
        entity: str | None = None,
        group: str | None = None,
        log_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.log_dir, self._run = log_dir, None
        if not is_rank_zero():
            return
        wandb = _import("wandb", "wandb", "WandBLogger")
        if log_dir is not None:
            Path(log_dir).mkdir(parents=True, exist_ok=True)
        self._run = wandb.run or wandb.init(project=project, entity=entity, group=group, dir=log_dir, **kwargs)
        self._run.define_metric("global_step")
        self._run.define_metric("*", step_metric="global_step", step_sync=True)

    def log_dict(self, payload: Mapping[str, Any], step: int) -> None:
        if self._run is not None:
            self._run.log({**_plain(payload), "global_step": step})

    def log_config(self, config: DictConfig) -> None:
        if self._run is not None:
            self._run.config.update(_public(config), allow_val_change=True)
            path = save_config(config)
            self._run.save(str(path), base_path=str(path.parent), policy="now")

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


class TensorBoardLogger(MetricLoggerInterface):
    """Writes event files for TensorBoard.

    Args:
        log_dir: folder, made if it is absent.
        organize_logs: put each run into a folder of its own, ``run_{rank}_{unix time}``.
        kwargs: for ``torch.utils.tensorboard.SummaryWriter``.

    Raises:
        MissingDependency: tensorboard is not installed.
    """

    def __init__(self, log_dir: str, organize_logs: bool = True, **kwargs: Any) -> None:
        self._writer = None
        if is_rank_zero():
            folder = Path(log_dir) / f"run_0_{int(time.time())}" if organize_logs else Path(log_dir)
            tensorboard = _import("torch.utils.tensorboard", "tensorboard", "TensorBoardLogger")
            self._writer = tensorboard.SummaryWriter(log_dir=str(folder), **kwargs)

    def log_dict(self, payload: Mapping[str, Any], step: int) -> None:
        if self._writer is not None:
            for name, value in _plain(payload).items():
                self._writer.add_scalar(name, value, global_step=step, new_style=True)

    def log_config(self, config: DictConfig) -> None:
        super().log_config(config)
        if self._writer is not None:
            text = config_files.to_yaml(config_files.source_of(config))
            # Four blanks make it a block of code in TensorBoard's Markdown.
            self._writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class CometLogger(MetricLoggerInterface):
    """Logs to Comet. https://www.comet.com/docs/v2/api-and-sdk/python-sdk/reference/start/

    Args:
        api_key: None takes ``COMET_API_KEY`` or Comet's own config file, which keeps it out of configs.
        experiment_key: of an experiment to go on with.
        mode: "get_or_create", "get" or "create".
        online: False keeps everything in a local archive.
        log_code: upload the running script.
        kwargs: for ``comet_ml.ExperimentConfig``.

    Raises:
        MissingDependency: comet_ml is not installed.
    """

    def __init__(
        self,
        api_key: str | None = None,
        workspace: str | None = None,
        project: str | None = None,
        experiment_key: str | None = None,
        mode: str | None = None,
        online: bool | None = None,
        experiment_name: str | None = None,
        tags: list[str] | None = None,
        log_code: bool = True,
        **kwargs: Any,
    ) -> None:
        self.experiment = None
        if is_rank_zero():
            comet_ml = _import("comet_ml", "comet_ml", "CometLogger")
            settings = comet_ml.ExperimentConfig(
                name=experiment_name, tags=list(tags) if tags else None, log_code=log_code, **kwargs
            )
            self.experiment = comet_ml.start(
                api_key=api_key,
                workspace=workspace,
                project=project,
                experiment_key=experiment_key,
                mode=mode,
                online=online,
                experiment_config=settings,
            )

    def log_dict(self, payload: Mapping[str, Any], step: int) -> None:
        if self.experiment is not None:
            self.experiment.log_metrics(_plain(payload), step=step)

    def log_config(self, config: DictConfig) -> None:
        if self.experiment is not None:
            self.experiment.log_parameters(flatten_dict(_public(config)))
            self.experiment.log_asset(str(save_config(config)))

    def close(self) -> None:
        if self.experiment is not None:
            self.experiment.end()
            self.experiment = None


class MLFlowLogger(MetricLoggerInterface):
    """Logs to MLflow. https://mlflow.org/docs/latest/python_api/mlflow.html

    Args:
        experiment_name: None takes ``MLFLOW_EXPERIMENT_NAME``, otherwise MLflow's default experiment.
        tracking_uri: a server or folder; None takes ``MLFLOW_TRACKING_URI``, otherwise MLflow's default.
        run_id: of a run to go on with.

    Raises:
        MissingDependency: mlflow is not installed.
    """

    def __init__(
        self,
        experiment_name: str | None = None,
        tracking_uri: str | None = None,
        run_id: str | None = None,
        run_name: str | None = None,
    ) -> None:
        self._mlflow = _import("mlflow", "mlflow", "MLFlowLogger") if is_rank_zero() else None
        if self._mlflow is None:
            return
        if tracking_uri is not None:
            self._mlflow.set_tracking_uri(tracking_uri)
        experiment_name = experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if experiment_name is not None:
            self._mlflow.set_experiment(experiment_name)
        self.run = self._mlflow.active_run() or self._mlflow.start_run(run_id=run_id, run_name=run_name)

    def log_dict(self, payload: Mapping[str, Any], step: int) -> None:
        if self._mlflow is not None:
            # Not waiting for the server; end_run does.
            self._mlflow.log_metrics(_plain(payload), step=step, synchronous=False)

    def log_config(self, config: DictConfig) -> None:
        if self._mlflow is None:
            return
        self._mlflow.log_artifact(str(save_config(config)))
        params = [(key, str(value)[:_MLFLOW_PARAM_LENGTH]) for key, value in flatten_dict(_public(config)).items()]
        for start in range(0, len(params), _MLFLOW_PARAMS_PER_CALL):
            self._mlflow.log_params(dict(params[start : start + _MLFLOW_PARAMS_PER_CALL]))

    def close(self) -> None:
        if self._mlflow is not None:
            self._mlflow.end_run()
            self._mlflow = None


def _import(module: str, package: str, user: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependency(f"{user} needs {package}, which is not installed: pip install {package}") from error


def _plain(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in payload.items()}


def _public(config: DictConfig) -> dict[str, Any]:
    return public_container(config_files.source_of(config))
