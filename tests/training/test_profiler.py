import gzip
import json

import pytest
import torch
from omegaconf import OmegaConf

from torchtune.errors import ConfigError
from torchtune.training.profiler import DEFAULT_SCHEDULE, DummyProfiler, setup_torch_profiler

STEPS = {"wait_steps": 1, "warmup_steps": 1, "active_steps": 1}


def _run(profiler, steps):
    weight = torch.randn(64, 64, requires_grad=True)
    with profiler:
        for _ in range(steps):
            (weight @ weight).sum().backward()
            profiler.step()


def test_switched_off_it_does_nothing(caplog):
    caplog.set_level("INFO", "torchtune")
    profiler, config = setup_torch_profiler(enabled=False, output_dir="never_made")
    assert isinstance(profiler, DummyProfiler) and config == {"enabled": False}
    assert caplog.messages == ["Profiling disabled."]
    profiler.start()
    _run(profiler, 2)
    profiler.stop()


def test_each_cycle_leaves_its_files(tmp_path):
    profiler, config = setup_torch_profiler(
        enabled=True, num_cycles=2, output_dir=str(tmp_path), with_stack=True, profile_memory=True, **STEPS
    )
    _run(profiler, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration_3", "iteration_6"]
    folder = tmp_path / "iteration_3"
    names = {path.name for path in folder.iterdir()}
    assert {"rank0_key_averages.txt", "rank0_stacks.txt", "rank0_memory_timeline.json.gz"} < names
    assert "aten::mm" in (folder / "rank0_key_averages.txt").read_text()
    (trace,) = folder.glob("rank0.*.pt.trace.json.gz")
    assert any(event.get("name") == "aten::mm" for event in json.load(gzip.open(trace))["traceEvents"])
    assert OmegaConf.to_container(config)["num_cycles"] == 2


def test_without_extras_there_is_a_trace_and_a_table(tmp_path):
    profiler, _ = setup_torch_profiler(enabled=True, num_cycles=1, output_dir=str(tmp_path), **STEPS)
    _run(profiler, 4)
    assert len(list((tmp_path / "iteration_3").iterdir())) == 2


def test_what_is_left_out_of_the_schedule_is_filled_and_said(caplog):
    caplog.set_level("INFO", "torchtune")
    _, config = setup_torch_profiler(enabled=True, wait_steps=1)
    assert {**DEFAULT_SCHEDULE, "wait_steps": 1}.items() <= dict(config).items()
    assert caplog.messages == ["Profiler schedule: defaulting to warmup_steps = 5, active_steps = 2, num_cycles = 1"]


def test_memory_needs_stacks_and_shapes():
    _, config = setup_torch_profiler(enabled=True, profile_memory=True, record_shapes=False, num_cycles=1, **STEPS)
    assert config.with_stack and config.record_shapes


@pytest.mark.parametrize(
    ("name", "value"), [("wait_steps", -1), ("active_steps", 0), ("num_cycles", 1.5), ("warmup_steps", "2")]
)
def test_a_bad_schedule_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"profiler.{name} is {value!r}"):
        setup_torch_profiler(enabled=True, **{**STEPS, name: value})


def test_nothing_to_record_is_refused():
    with pytest.raises(ConfigError, match="this machine has.*cpu"):
        setup_torch_profiler(enabled=True, cpu=False, cuda=False, xpu=False)
