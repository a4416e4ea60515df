"""The metric loggers that a config can name."""

from torchtune.training._metrics_base import MetricLoggerInterface, flatten_dict, save_config
from torchtune.training._metrics_local import DiskLogger, JsonlLogger, MetricLoggers, StdoutLogger
from torchtune.training._metrics_services import CometLogger, MLFlowLogger, TensorBoardLogger, WandBLogger

__all__ = [
    "CometLogger",
    "DiskLogger",
    "JsonlLogger",
    "MLFlowLogger",
    "MetricLoggerInterface",
    "MetricLoggers",
    "StdoutLogger",
    "TensorBoardLogger",
    "WandBLogger",
    "flatten_dict",
    "save_config",
]
