import sys

import pytest
import torch
from omegaconf import OmegaConf

from torchtune.errors import MissingDependency
from torchtune.training.metric_logging import CometLogger, MLFlowLogger, TensorBoardLogger, WandBLogger

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def config(tmp_path):
    return OmegaConf.create({"output_dir": str(tmp_path / "run"), "hf_token": SECRET, "optimizer": {"lr": 0.1}})


def _use(logger, config):
    logger.log_config(config)
    logger.log("loss", torch.tensor(2.5), 1)
    logger.log_dict({"loss": 1.5, "lr": 0.1}, 2)
    logger.close()


@pytest.mark.parametrize(
    ("make", "module", "package"),
    [
        (WandBLogger, "wandb", "wandb"),
        (lambda: TensorBoardLogger("logs"), "tensorboard", "tensorboard"),
        (CometLogger, "comet_ml", "comet_ml"),
        (MLFlowLogger, "mlflow", "mlflow"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(make, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    for loaded in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, loaded)
    with pytest.raises(MissingDependency, match=f"pip install {package}"):
        make()


@pytest.mark.parametrize("make", [WandBLogger, lambda: TensorBoardLogger("logs"), CometLogger, MLFlowLogger])
def test_other_processes_neither_import_nor_write(make, monkeypatch, config, tmp_path):
    monkeypatch.setenv("RANK", "1")
    for module in ("wandb", "tensorboard", "comet_ml", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    _use(make(), config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("organize_logs", [True, False])
def test_tensorboard_holds_the_numbers_and_the_config(tmp_path, config, organize_logs):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _use(TensorBoardLogger(str(tmp_path / "tb"), organize_logs=organize_logs), config)
    (events,) = (tmp_path / "tb").rglob("events.out.tfevents.*")
    assert (events.parent == tmp_path / "tb") is not organize_logs
    read = EventAccumulator(str(events)).Reload()
    assert [(e.step, e.tensor_proto.float_val[0]) for e in read.Tensors("loss")] == [(1, 2.5), (2, 1.5)]
    assert SECRET.encode() not in events.read_bytes()
    assert b"optimizer" in events.read_bytes()


def test_mlflow_holds_the_numbers_and_the_config(tmp_path, config, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    _use(MLFlowLogger("mine", uri, run_name="first"), config)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("mine")
    (run,) = client.search_runs([experiment.experiment_id])
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(1, 2.5), (2, 1.5)]
    assert run.data.params["optimizer.lr"] == "0.1" and SECRET not in str(run.data.params)
    assert run.info.status == "FINISHED" and run.info.run_name == "first"
    assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["torchtune_config.yaml"]


def test_wandb_offline_keeps_the_numbers_and_the_config(tmp_path, config):
    pytest.importorskip("wandb")
    logger = WandBLogger(project="p", log_dir=str(tmp_path / "w"), mode="offline", settings={"console": "off"})
    run = logger._run
    logger.log_config(config)
    logger.log_dict({"loss": torch.tensor(1.5)}, 2)
    assert run.config["optimizer"] == {"lr": 0.1} and SECRET not in str(dict(run.config))
    assert (run.summary["loss"], run.summary["global_step"]) == (1.5, 2)
    logger.close()
    (kept,) = (tmp_path / "w").rglob("torchtune_config.yaml")
    assert SECRET not in kept.read_text()


def test_comet_offline_keeps_an_archive(tmp_path, config, monkeypatch):
    pytest.importorskip("comet_ml")
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(tmp_path / "comet"))
    logger = CometLogger(project="p", online=False, experiment_name="first", tags=["a"], log_code=False)
    name = logger.experiment.get_name()
    _use(logger, config)
    assert name == "first" and list((tmp_path / "comet").glob("*.zip"))
