import json
import logging

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from torchtune.errors import ConfigError
from torchtune.training.metric_logging import (
    DiskLogger,
    JsonlLogger,
    MetricLoggerInterface,
    MetricLoggers,
    StdoutLogger,
    flatten_dict,
    save_config,
)

METRICS = {"loss": torch.tensor(1.5), "lr": 2e-5, "tokens_per_second_per_gpu": np.float32(12.0), "num_tokens": 7}


def _config(folder):
    return OmegaConf.create(
        {
            "output_dir": str(folder),
            "hf_token": "hf_abcdefghijklmnopqrstuvwxyz",
            "model": {"_component_": "torchtune.models.llama3_2.llama3_2_1b"},
            "where": "${output_dir}/logs",
        }
    )


def test_the_terminal_gets_a_line_per_call(capsys):
    logger = StdoutLogger()
    logger.log("loss", 1.5, 1)
    logger.log_dict(METRICS, 2)
    logger.close()
    assert capsys.readouterr().out == (
        "Step 1 | loss:1.5\nStep 2 | loss:1.5 lr:2e-05 tokens_per_second_per_gpu:12.0 num_tokens:7\n"
    )


def test_the_file_is_named_after_the_time_and_written_at_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1707246452.9)
    caplog.set_level(logging.INFO, "torchtune")
    logger = DiskLogger(str(tmp_path / "logs"))
    path = tmp_path / "logs" / "log_1707246452.txt"
    assert caplog.messages == [f"Writing logs to {path}"]
    logger.log_dict(METRICS, 3)
    assert path.read_text() == "Step 3 | loss:1.5 lr:2e-05 tokens_per_second_per_gpu:12.0 num_tokens:7\n"
    logger.close()


def test_the_files_name_can_be_chosen(tmp_path):
    assert DiskLogger(tmp_path, output_fmt="log").path.suffix == ".log"
    assert DiskLogger(tmp_path, filename="mine").path == tmp_path / "mine"


@pytest.mark.parametrize("arguments", [{"output_fmt": "csv"}, {"flush_every": 3}])
def test_what_the_file_logger_does_not_know_is_refused(tmp_path, arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        DiskLogger(tmp_path, **arguments)


def test_json_lines_are_valid_json_whatever_the_number(tmp_path):
    logger = JsonlLogger(tmp_path)
    logger.log_dict({**METRICS, "a": float("nan"), "b": torch.tensor(float("inf")), "c": -float("inf"), "note": "x"}, 4)
    # Read before it is closed: each line is on disk when the call returns.
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=pytest.fail)
    assert record.pop("time") > 1.6e9
    assert record == {
        "step": 4,
        "loss": 1.5,
        "lr": 2e-5,
        "tokens_per_second_per_gpu": 12.0,
        "num_tokens": 7,
        "a": None,
        "b": "inf",
        "c": "-inf",
        "note": "x",
    }
    logger.close()


def test_a_resumed_run_appends_also_after_a_torn_line(tmp_path):
    first = JsonlLogger(tmp_path)
    first.log("loss", 1.0, 1)
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    second = JsonlLogger(tmp_path)
    second.log("loss", 0.5, 2)
    second.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5)]


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    for logger in (DiskLogger(tmp_path / "a"), JsonlLogger(tmp_path / "b"), StdoutLogger()):
        logger.log("loss", 1.0, 1)
        logger.log_config(_config(tmp_path / "c"))
        logger.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_several_loggers_hear_the_same_and_all_are_closed(tmp_path):
    class Failing(MetricLoggerInterface):
        def log_dict(self, payload, step):
            pass

        def close(self):
            raise OSError("no space left")

    disk, jsonl = DiskLogger(tmp_path, filename="log"), JsonlLogger(tmp_path)
    loggers = MetricLoggers([Failing(), disk, jsonl])
    loggers.log("loss", 2.0, 1)
    loggers.log_config(_config(tmp_path))
    with pytest.raises(OSError, match="no space"):
        loggers.close()
    assert disk._file.closed and jsonl._file.closed
    assert disk.path.read_text() == "Step 1 | loss:2.0\n" and json.loads(jsonl.path.read_text())["loss"] == 2.0
    assert (tmp_path / "torchtune_config.yaml").exists()


def test_a_saved_config_holds_no_secret(tmp_path):
    path = save_config(_config(tmp_path / "run"))
    assert path == tmp_path / "run" / "torchtune_config.yaml" and "hf_abc" not in path.read_text()
    assert OmegaConf.load(path).model._component_ == "torchtune.models.llama3_2.llama3_2_1b"


def test_the_checkpointers_folder_will_do(tmp_path):
    config = OmegaConf.create({"checkpointer": {"output_dir": str(tmp_path)}})
    assert save_config(config) == tmp_path / "torchtune_config.yaml"
    with pytest.raises(ConfigError, match="output_dir"):
        save_config(OmegaConf.create({"seed": 1}))


def test_nested_dicts_become_one():
    nested = {"a": {"b": 1, "c": {"d": 2}}, "e": [1, {"f": 2}], 3: {}}
    assert flatten_dict(nested) == {"a.b": 1, "a.c.d": 2, "e": [1, {"f": 2}]}
    assert flatten_dict(nested, sep="/", parent_key="top") == {"top/a/b": 1, "top/a/c/d": 2, "top/e": [1, {"f": 2}]}
